"""The VAE in overlapping tiles of the picture: the last resort if not even one frame fits in memory.

Each tile is processed as a clip with its own memory, and neighbouring tiles are blended linearly over their overlap. A
clip may be passed whole or in slices.

The result is not exact, because GroupNorm normalises each tile separately, and convolutions read zeros beyond its edge.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL, split_after_first
from models.video_vae_v3.modules.schedule import Schedule
from models.video_vae_v3.modules.temporal_memory import ClipMemory

Span = tuple[int, int]  # (start, stop)


def tile_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """(start, stop) of tiles of equal length that cover 0 ... length; neighbours overlap by at least `overlap`.

    Raises:
        ValueError: the overlap is negative, or half a tile or more.
    """
    if not 0 <= overlap < tile / 2:
        raise ValueError(f"tiles of {tile} with an overlap of {overlap}: the overlap must be below half of the tile")
    if tile >= length:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


class TileMemories:
    """The memories of the tiles of one clip in one network, for a clip that is passed in slices.

    They are stored on the host between slices, because together they are larger than the memory of the whole picture.

    Args:
        schedule: the schedule of the clip; its levels apply to each tile.
    """

    def __init__(self, vae: VideoAutoencoderKL, schedule: Schedule) -> None:
        self._memories: defaultdict[tuple[Span, Span], ClipMemory] = defaultdict(partial(vae.new_memory, schedule))

    @contextmanager
    def of(self, tile: tuple[Span, Span]) -> Iterator[ClipMemory]:
        """The memory of the tile at (rows, columns), for one slice; afterwards it is moved to the host."""
        yield self._memories[tile]
        self._memories[tile].offload()

    def offload(self) -> None:
        """Do nothing, as the memories are already on the host; this has the interface of `ClipMemory.offload`."""


def decode_tiled(
    vae: VideoAutoencoderKL,
    z: Tensor,
    tile: int,
    overlap: int,
    device: str = "cpu",
    memories: TileMemories | None = None,
) -> Tensor:
    """Decode latents z [B, C, t, h, w] in tiles, to [B, 3, T, H, W] in the dtype of z.

    Args:
        z: latents on any device.
        tile, overlap: side and overlap of tiles, in latents.
        device: device of the result.
        memories: those of the clip, if z is its next slice; None: z is a whole clip.

    Raises:
        ValueError: see `tile_spans`.
    """
    size = vae.split_size and vae.split_size // vae.temporal_factor
    direction = _Direction(vae.decode_slice, size, 1, vae.spatial_factor)
    return _in_tiles(vae, direction, z, (tile, overlap), device, memories)


def encode_tiled(
    vae: VideoAutoencoderKL,
    x: Tensor,
    tile: int,
    overlap: int,
    device: str = "cpu",
    memories: TileMemories | None = None,
) -> Tensor:
    """Encode frames x [B, 3, T, H, W] in tiles, to posterior parameters [B, 2C, t, h, w] in the dtype of x.

    The other arguments and errors are those of `decode_tiled`.
    """
    direction = _Direction(vae.encode_slice, vae.split_size, vae.spatial_factor, 1)
    return _in_tiles(vae, direction, x, (tile, overlap), device, memories)


class _Direction(NamedTuple):
    """The settings of encoding or of decoding.

    run: passes one slice through the network.
    frames: number of input frames in a slice, without the clip's first frame; None: all.
    into: number of input pixels per latent, along height and width.
    out_of: number of output pixels per latent, along height and width.
    """

    run: Callable[[Tensor, ClipMemory], Tensor]
    frames: int | None
    into: int
    out_of: int


def _in_tiles(
    vae: VideoAutoencoderKL,
    direction: _Direction,
    x: Tensor,
    tiling: tuple[int, int],
    device: str,
    memories: TileMemories | None,
) -> Tensor:
    """Pass x through the network of `direction` in tiles; `tiling`: side and overlap of tiles, in latents."""
    (tile, overlap), into, out_of = tiling, direction.into, direction.out_of
    height, width = (n // into for n in x.shape[3:])
    weight = next(vae.parameters())
    total: Tensor | None = None
    weights = torch.zeros(height * out_of, width * out_of, device=device)
    for place in _tiles(height, width, tile, overlap):
        (top, bottom), (left, right) = place
        part = x[..., top * into : bottom * into, left * into : right * into]
        with nullcontext(vae.new_memory()) if memories is None else memories.of(place) as memory:
            slices = _slices(part, direction.frames, memory.starts_clip)
            y = torch.cat([direction.run(x.to(weight), memory).to(device, torch.float32) for x in slices], 2)
        rows = ramp((bottom - top) * out_of, overlap * out_of, top > 0, bottom < height)
        columns = ramp((right - left) * out_of, overlap * out_of, left > 0, right < width)
        share = (rows[:, None] * columns).to(device)
        if total is None:
            total = y.new_zeros(*y.shape[:3], *weights.shape)
        target = (..., slice(top * out_of, bottom * out_of), slice(left * out_of, right * out_of))
        total[target] += y * share
        weights[target] += share
    assert total is not None, "a picture has at least one tile"
    return total.div_(weights).to(x.dtype)


def _slices(x: Tensor, size: int | None, starts_clip: bool) -> Sequence[Tensor]:
    """Cut x in time into slices of `size` frames; the first slice of a clip has one frame more."""
    if size is None:
        return [x]
    return split_after_first(x, size) if starts_clip else x.split(size, dim=2)


def _tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    for rows in tile_spans(height, tile, overlap):
        for columns in tile_spans(width, tile, overlap):
            yield rows, columns


def ramp(length: int, overlap: int, rises: bool, falls: bool) -> Tensor:
    """The blending weights of a tile along one axis, [length].

    They rise linearly to 1 over `overlap` at the start if `rises`, and fall likewise at the end if `falls`.
    """
    weights = torch.ones(length)
    slope = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    if rises and overlap:
        weights[:overlap] = slope
    if falls and overlap:
        weights[-overlap:] = slope.flip(0)
    return weights
