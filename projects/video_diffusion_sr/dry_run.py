"""Runs both networks on the meta device, so that `compiled_ahead` compiles every kernel that the files need.

There is no list of kernels: the networks' code launches them for the shapes of the files' slices.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.distributed.row_parallel import RowBlocks
from common.kernels.ahead import compiled_ahead
from data.video.framing import causal_length, latent_frames
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import Schedule
from projects.video_diffusion_sr.memory.budget import Clip
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.settings import RunSettings

MOST_SIZES = 4  # most picture sizes of a folder that are run, since kernels hardly differ between sizes
LATENTS = (2, 8, 8)  # latent (t, h, w) of the transformer's clip; its kernels are the same for all sizes
TEXT_TOKENS = 8


@dataclass
class DryRows:
    """A `RowExchange` without communication, which returns empty tensors of the shapes that would arrive.

    ranks: number of ranks that share the picture.
    total_rows, local_rows: latent rows of the picture and of this rank's block.
    first, last, shared: see `RowExchange`.
    """

    ranks: int
    total_rows: int
    local_rows: int
    first: bool
    last: bool
    shared: bool = True

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[Tensor | None, Tensor | None]:
        row = x.new_empty(*x.shape[:2], 1, *x.shape[3:])
        return row if above and not self.first else None, row if below and not self.last else None

    def gather(self, part: Tensor) -> Tensor:
        return part.new_empty(self.ranks, *part.shape)

    def surroundings(self, x: Tensor, part: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return *self.neighbours(x), self.gather(part)

    def gather_pixels(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], x.shape[1] // self.local_rows * self.total_rows, x.shape[2])


def kernels_for(
    settings: RunSettings, parallel: Parallel, files: Sequence[tuple[Clip, MemoryPlan]]
) -> AbstractContextManager[None]:
    """A context in which weights are loaded while the kernels of these files are compiled in threads.

    The networks of `settings` must be without weights when it begins.
    """
    if settings.device.type != "cuda" or not files:
        return nullcontext()
    clips = different_clips(settings, files)
    key = repr((clips, settings.vae.levels, settings.dit.config, settings.dtype, parallel.size, parallel.rank))
    return compiled_ahead(dry_run(settings, parallel, clips), settings.device, key)


@dataclass(frozen=True)
class DryClip:
    """The properties of a clip on which kernels depend.

    schedule: its schedule in the VAE.
    size: (H, W) of the networks' pictures in pixels.
    frames, latents: the different lengths of its slices, in frames and in latent frames, in order.
    """

    schedule: Schedule
    size: tuple[int, int]
    frames: tuple[int, ...]
    latents: tuple[int, ...]


def different_clips(settings: RunSettings, files: Sequence[tuple[Clip, MemoryPlan]]) -> list[DryClip]:
    """The different clips of a run, at most `MOST_SIZES`."""
    factor, size_of = settings.vae.temporal_factor, settings.geometry.network_size
    clips = [
        DryClip(
            plan.schedule,
            size_of(clip.height, clip.width),
            tuple(slices_of(plan.schedule, clip.frames, factor)),
            tuple(slices_of(plan.schedule, clip.frames, factor, of_latents=True)),
        )
        for clip, plan in files
    ]
    return list(dict.fromkeys(clips))[:MOST_SIZES]


def dry_run(settings: RunSettings, parallel: Parallel, clips: Sequence[DryClip]) -> Callable[[], None]:
    """The function for `compiled_ahead`, which runs copies of the networks of `settings`."""
    vae, dit = deepcopy(settings.vae), transformer_of_two_blocks(settings.dit, settings.dtype)

    def run() -> None:
        prepare_inference(vae, winograd={m for clip in clips for m in clip.schedule.winograds})
        vae.to(settings.dtype)
        for clip in clips:
            run_vae(vae, settings.dtype, clip, parallel)
        run_transformer(dit, settings.dtype)

    return run


def run_vae(vae: VideoAutoencoderKL, dtype: torch.dtype, clip: DryClip, parallel: Parallel) -> None:
    """Run the encoder and the decoder on slices of all shapes of a clip."""
    scale, tile = vae.spatial_factor, clip.schedule.tile
    height, width = (n if tile is None else min(n, tile * scale) for n in clip.size)
    rows = None if tile is not None else dry_rows(height // scale, parallel)
    if rows is not None:
        height = rows.local_rows * scale
        if not height:
            return
    memory = vae.new_memory(clip.schedule, rows)
    for length in clip.frames:
        vae.encode_slice(torch.empty(1, 3, length, height, width, dtype=dtype, device="meta"), memory)
    memory, size = vae.new_memory(clip.schedule, rows), (height // scale, width // scale)
    for length in clip.latents:
        vae.decode_slice(torch.empty(1, vae.latent_channels, length, *size, dtype=dtype, device="meta"), memory)


def slices_of(schedule: Schedule, frames: int | None, factor: int, of_latents: bool = False) -> Iterable[int]:
    """The different lengths of a clip's slices (first, middle, last), in frames or, if `of_latents`, latent frames."""
    if schedule.single_frame or frames == 1:
        return [1]
    step = schedule.slice_frames and schedule.slice_frames // factor  # latent frames
    latents = latent_frames(causal_length(frames, factor), factor) if frames else 1 + 2 * (step or 1)
    cut = [latents] if step is None else [min(step, latents - start) for start in range(0, latents, step)]
    if not of_latents:  # the first slice of frames also has the clip's first frame
        after = latents - 1
        cut = [after] if step is None else [min(step, after - start) for start in range(0, after, step)]
        cut = [1 + factor * cut[0], *(factor * length for length in cut[1:])]
    return [cut[0], *dict.fromkeys(cut[1:])]


def dry_rows(latent_rows: int, parallel: Parallel) -> DryRows | None:
    """The exchange for this rank's rows; None if ranks do not share clips."""
    if parallel.size == 1:
        return None
    blocks, rank = RowBlocks.of(latent_rows, parallel.size), parallel.group.rank
    if blocks.active < 2:
        return None
    return DryRows(blocks.active, latent_rows, blocks.counts[rank], rank == 0, rank == blocks.active - 1)


def transformer_of_two_blocks(dit: NaDiT, dtype: torch.dtype) -> NaDiT:
    """The transformer with two blocks, on the meta device, because all others launch the same kernels."""
    config = dit.config
    few = replace(config, num_layers=2, windows=config.windows[:2], shifted=config.shifted[:2])
    with torch.device("meta"):
        return NaDiT(few).to(dtype).eval()


def run_transformer(dit: NaDiT, dtype: torch.dtype) -> None:
    """Run one sampling step of a small clip."""
    config, positions = dit.config, LATENTS[0] * LATENTS[1] * LATENTS[2]
    dit(
        torch.empty(positions, config.vid_in_channels, dtype=dtype, device="meta"),
        torch.empty(TEXT_TOKENS, config.txt_in_dim, dtype=dtype, device="meta"),
        [LATENTS],
        [[TEXT_TOKENS]],
        0.0,
    )
