"""Converts the frames of a shot to latents: resizes and pads them, then encodes slice by slice."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import gcd

import torch
from torch import Tensor

from common.distributed.row_parallel import Rows
from common.kernels.transfer import RunAheadLimit
from common.noise_ahead import NoiseAhead
from data.colour.path import PixelPath
from data.media import Frame
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.finishing import pixels_of
from projects.video_diffusion_sr.progress import Progress
from projects.video_diffusion_sr.restorer import Restorer

PREPARE_FRAMES = 4  # most frames that are copied to the device and converted together


def prepare(
    frames: Iterator[Frame],
    restorer: Restorer,
    rows: Rows,
    path: PixelPath = PixelPath(),  # noqa: B008 (frozen)
) -> Iterator[Tensor]:
    """Yield this rank's rows of resized, padded frames, float32 [3, rows, w'] in [-1, 1].

    Args:
        path: the conversion of pixels for the networks.
    """
    scale, geometry = restorer.infer.vae.spatial_factor, restorer.geometry
    # It divides the length of a slice (the first frame not counted), so that no slice waits for frames of the next one.
    together, count = gcd(PREPARE_FRAMES, restorer.slice_frames or PREPARE_FRAMES), 1
    while group := list(islice(frames, count)):
        count = together
        for rgb in pixels_of(group, restorer, path)[0]:
            pixels = geometry.to_network(geometry.to_output(rgb, restorer.device))
            # A copy of these rows, because a view would keep the whole frame in memory.
            yield rows.shard(pixels, 1, scale).to(restorer.infer.stages.buffer_device).contiguous()


@dataclass(frozen=True)
class Slice:
    """Consecutive frames of a shot.

    clip: [3, T, rows, w'], this rank's rows.
    real: number of frames without repetitions of the last one.
    first: number of its first latent frame.
    latents: number of its latent frames.
    """

    clip: Tensor
    real: int
    first: int
    latents: int


def encode(
    frames: Iterator[Tensor],
    latent_size: tuple[int, int],
    restorer: Restorer,
    rows: Rows,
    progress: Progress,
    first: int = 0,
) -> Iterator[Tensor]:
    """Yield latents [t, h, w, c] of whole pictures, slice by slice, on every rank that shares the clip.

    The last frame is repeated to fill the last latent frame.

    Args:
        frames: this rank's rows of the padded frames of a shot, [3, rows, w'] each.
        latent_size: (h, w) of whole latents.
        first: number of the first latent frame, whose last frame is the first of `frames`. A slice of the shot must
            begin after it.
    """
    infer, run_ahead, size = restorer.infer, RunAheadLimit(restorer.device), restorer.slice_frames
    memory, factor = infer.new_memory(rows.exchange), infer.vae.temporal_factor
    with NoiseAhead(restorer.seed, "posterior", (*latent_size, infer.vae.latent_channels), restorer.device) as noises:
        for slice_ in slices(frames, size, factor, first):
            restorer.parallel.process.alive(f"latent frame {slice_.first} of a shot")
            noise = None
            if restorer.use_sample and rows.holds_rows:
                noise = rows.shard(noises.take(slice_.first, slice_.latents), 1)
                if size is not None and slice_.real >= size:  # the slice is full, so another one is likely
                    noises.expect(slice_.first + slice_.latents, size // factor)
            yield rows.unshard(encode_rows(slice_, latent_size, restorer, rows, memory, noise))
            run_ahead.step()
            progress.advance("encode", slice_.real)


def encode_rows(
    slice_: Slice,
    latent_size: tuple[int, int],
    restorer: Restorer,
    rows: Rows,
    memory: ClipMemory | TileMemories,
    noise: Tensor | None,
) -> Tensor:
    """Encode one slice to this rank's rows of latents [t, own rows, w, c], of which there may be none.

    Args:
        noise: noise of that shape for a sample of the posterior; None: use its mean.
    """
    infer = restorer.infer
    if not rows.holds_rows:
        return torch.empty(slice_.latents, 0, latent_size[1], infer.vae.latent_channels, device=restorer.device)
    return infer.encode_slice(slice_.clip, memory, noise)


def slices(frames: Iterator[Tensor], size: int | None, factor: int, first: int = 0) -> Iterator[Slice]:
    """Group frames [3, h', w'] into slices of 1 + size, size, size, ... frames; the last slice may be shorter.

    Args:
        size: None: one slice of all frames.
        factor: number of frames per latent frame, to which the last slice is filled up with copies of its last frame.
            The first frame has its own latent frame, number `first`.
    """
    waiting, wanted, alone = [], None if size is None else 1 + size, 1
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == wanted:
            assert size is not None, "there is a number to reach"
            latents = size // factor + alone
            yield Slice(torch.stack(waiting, dim=1), wanted, first, latents)
            waiting, wanted, first, alone = [], size, first + latents, 0
    if waiting:
        missing = -(len(waiting) - alone) % factor
        clip = torch.stack(waiting + waiting[-1:] * missing, dim=1)
        yield Slice(clip, len(waiting), first, (clip.shape[1] - alone) // factor + alone)
