"""Converts the restored latents of a shot to finished frames: decodes slice by slice, crops, applies the colour fix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import torch
from torch import Tensor

from common.distributed.row_parallel import Rows
from common.kernels.transfer import HostCopy, RunAheadLimit
from data.media import Frame
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.finishing import Finisher
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.segments import FROM_ITS_BEGINNING, RunIn


@dataclass(frozen=True)
class Finished:
    """A slice of finished frames that is being copied to the host, on the rank that writes it.

    copy: the copy of all tensors, see `arrive`.
    times: T, the times of the frames in seconds.
    stages: the stages to which the marks belong, see `FiniteGuard.marks`.
    compared: whether the frames come with pictures for a comparison and a report.
    first: number of the first frame in its shot.
    borders: see `MediaWriter.write_planes`.
    """

    copy: HostCopy
    times: list[Fraction]
    stages: tuple[str, ...]
    compared: bool
    first: int
    borders: Mapping[int, int] = field(default_factory=dict)

    def arrive(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None, Tensor]:
        """Wait for the copy. Returns (planes to store, frames for comparisons, marks) on the host.

        Planes are [T, ...]. The frames for comparisons are the resized input and the result, uint8 [T, 3, h, w] each;
        None if nothing compares them.
        """
        *stored, marks = self.copy.arrive()
        return (tuple(stored[:-2]), (stored[-2], stored[-1]), marks) if self.compared else (tuple(stored), None, marks)

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def nbytes(self) -> int:
        return self.copy.nbytes


def decode_and_finish(
    restored: Iterator[Tensor],
    inputs: Iterator[Frame],
    finisher: Finisher,
    rows: Rows,
    start: RunIn = FROM_ITS_BEGINNING,
) -> Iterator[Finished]:
    """Yield the finished frames of a shot slice by slice, on the leader of a group only.

    Every rank decodes its rows of a slice, and finishes some of the slice's frames. Frames after the end of the input,
    which only fill the last latent frame, are dropped.

    Args:
        restored: windows of latents from number `start.sampled` on.
        inputs: the input frames from the last frame of latent `start.encoded` on.
    """
    restorer = finisher.restorer
    infer, run_ahead, at = restorer.infer, RunAheadLimit(restorer.device), restorer.grid.factor * start.encoded
    for decoded in decode(restored, restorer, rows, start):
        _leave_out(inputs, decoded.first - at)
        degraded, at = list(islice(inputs, decoded.frames)), decoded.first + decoded.frames
        if decoded.wanted:
            results = finisher.finish(decoded.clip, degraded[rows.frame_span(decoded.frames)])
            gathered = [rows.to_leader(result, decoded.frames) for result in results]
            if restorer.parallel.is_leader:
                whole = [result[: len(degraded)] for result in gathered if result is not None]  # none is, on the leader
                (stages, marks), compared = infer.guard.marks(), restorer.result_options.pairs
                copy = HostCopy(*finisher.form.stored(whole[-1]), *(whole if compared else ())[:2], marks)
                yield Finished(copy, [frame.time for frame in degraded], stages, compared, decoded.first)
        run_ahead.step()


def _leave_out(frames: Iterator[Frame], count: int) -> None:
    next(islice(frames, count, count), None)


@dataclass(frozen=True)
class Decoded:
    """Consecutive decoded frames of a shot.

    clip: those of them that this rank finishes, as whole pictures [3, t, h', w'].
    first: number of the first frame in the shot.
    frames: number of frames.
    wanted: False: they were only recomputed for later frames, and are not written.
    """

    clip: Tensor
    first: int
    frames: int
    wanted: bool


def decode(restored: Iterator[Tensor], restorer: Restorer, rows: Rows, start: RunIn) -> Iterator[Decoded]:
    """Decode windows of latents [t, h, w, c], from number `start.sampled` on, slice by slice."""
    infer, grid = restorer.infer, restorer.grid
    memory, latent = infer.new_memory(rows.exchange), start.sampled
    for window in restored:
        unneeded = min(max(start.decoded - latent, 0), len(window))
        latent += unneeded
        if unneeded == len(window):
            continue
        for latents in window[unneeded:].split(grid.slice_latents or len(window)):
            restorer.parallel.process.alive("a slice of a shot")
            begins = latent == start.decoded  # the decoder makes one frame from its first latent
            frames = grid.factor * len(latents) - begins * (grid.factor - 1)
            clip = rows.to_frames(decode_rows(latents, frames, restorer, rows, memory), infer.vae.spatial_factor)
            wanted, latent = latent >= start.wanted, latent + len(latents)
            yield Decoded(clip, grid.first_frame(latent) - frames, frames, wanted)


def decode_rows(
    latents: Tensor, frames: int, restorer: Restorer, rows: Rows, memory: ClipMemory | TileMemories
) -> Tensor:
    """Decode this rank's rows of latents [t, h, w, c]: [3, frames, own rows, w'] in about [-1, 1]; may have no rows."""
    infer = restorer.infer
    if rows.holds_rows:
        return infer.decode_slice(rows.shard(latents, 1), memory)
    width = latents.shape[2] * infer.vae.spatial_factor
    return torch.empty(3, frames, 0, width, dtype=infer.stages.vae_dtype, device=restorer.device)
