"""The VAE in overlapping tiles of the picture: the last resort where not even one frame fits.

Every tile goes through the whole clip by itself, with a memory of its own, and neighbours are blended linearly over
their overlap. Not exact: GroupNorm sees a tile instead of the picture, and convolutions see zeros beyond its edge.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL

Span = tuple[int, int]


def tile_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Equal tiles that cover 0..length, the last one ending there; neighbours share at least `overlap`.

    Raises:
        ValueError: an overlap of half a tile or more.
    """
    if not 0 <= overlap < tile / 2:
        raise ValueError(f"tiles of {tile} with an overlap of {overlap}: the overlap must be below half of the tile")
    if tile >= length:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def decode_tiled(vae: VideoAutoencoderKL, z: Tensor, tile: int, overlap: int, device: str = "cpu") -> Tensor:
    """[B, C, t, h, w] -> [B, 3, T, H, W] on `device`, in tiles of tile x tile latents."""
    shape = (len(z), 3, (z.shape[2] - 1) * vae.temporal_factor + 1, *(n * vae.spatial_factor for n in z.shape[3:]))
    return _in_tiles(vae.decode_latents, z, shape, tile, overlap, (1, vae.spatial_factor), device)


def encode_tiled(vae: VideoAutoencoderKL, x: Tensor, tile: int, overlap: int, device: str = "cpu") -> Tensor:
    """[B, 3, T, H, W] -> moments [B, 2 * C, t, h, w] on `device`, in tiles of tile x tile latents."""
    scale = vae.spatial_factor
    frames = (x.shape[2] - 1) // vae.temporal_factor + 1
    shape = (len(x), 2 * vae.latent_channels, frames, *(n // scale for n in x.shape[3:]))
    return _in_tiles(vae.encode_moments, x, shape, tile, overlap, (scale, 1), device)


def _in_tiles(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    shape: tuple[int, ...],
    tile: int,
    overlap: int,
    scales: tuple[int, int],
    device: str,
) -> Tensor:
    """`scales`: pixels of the input and of the output to a latent."""
    into, out_of = scales
    height, width = (n // into for n in x.shape[3:])
    total = torch.zeros(shape, device=device, dtype=torch.float32)
    weights = torch.zeros(shape[3:], device=device)
    for (top, bottom), (left, right) in _tiles(height, width, tile, overlap):
        y = run(x[..., top * into : bottom * into, left * into : right * into]).to(device, torch.float32)
        rows = ramp((bottom - top) * out_of, overlap * out_of, top > 0, bottom < height)
        columns = ramp((right - left) * out_of, overlap * out_of, left > 0, right < width)
        weight = (rows[:, None] * columns).to(device)
        place = (..., slice(top * out_of, bottom * out_of), slice(left * out_of, right * out_of))
        total[place] += y * weight
        weights[place] += weight
    return total.div_(weights).to(x.dtype)


def _tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    for rows in tile_spans(height, tile, overlap):
        for columns in tile_spans(width, tile, overlap):
            yield rows, columns


def ramp(length: int, overlap: int, rises: bool, falls: bool) -> Tensor:
    """Weights of a tile along one axis, [length]: from near 0 to 1 over the overlap at an inner edge."""
    weights = torch.ones(length)
    slope = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    if rises and overlap:
        weights[:overlap] = slope
    if falls and overlap:
        weights[-overlap:] = slope.flip(0)
    return weights
