"""From the restored latents of a shot to its finished frames: decoded slice by slice, cropped, colours given back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import torch
from torch import Tensor

from common.distributed.row_parallel import Rows
from common.kernels.transfer import HostCopy, Pace
from data.media import Frame, rgb_of
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.geometry import to_8_bit
from projects.video_diffusion_sr.memory.predict import FINISH_FRAMES
from projects.video_diffusion_sr.request import Finish
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.strength import mixed
from projects.video_diffusion_sr.stretches import FROM_ITS_BEGINNING, RunIn

Stored = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Finished:
    """A slice of finished frames on their way to the host, on the rank that writes them.

    times: T, seconds. stages: which of them the marks stand for, see `FiniteGuard.marks`.
    compared: the frames come with what a comparison and a report's page show. first: number of the first frame in its
    shot. borders: see `MediaWriter.write_planes`.
    """

    copy: HostCopy
    times: list[Fraction]
    stages: tuple[str, ...]
    compared: bool
    first: int
    borders: Mapping[int, int] = field(default_factory=dict)

    def arrive(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None, Tensor]:
        """(the frames as stored, [T, ...] each; resized input and result, u8 [T, 3, h, w]; marks), on the host.

        Waits until they are there.
        """
        *stored, marks = self.copy.arrive()
        return (tuple(stored[:-2]), tuple(stored[-2:]), marks) if self.compared else (tuple(stored), None, marks)

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def nbytes(self) -> int:
        return self.copy.nbytes


def as_rgb(frames: Tensor) -> tuple[Tensor, ...]:
    """Frames stored as they are."""
    return (frames,)


def decode_and_finish(
    restored: Iterator[Tensor],
    inputs: Iterator[Frame],
    size: tuple[int, int],
    restorer: Restorer,
    rows: Rows,
    stored: Stored = as_rgb,
    start: RunIn = FROM_ITS_BEGINNING,
) -> Iterator[Finished]:
    """Finished frames of a shot, slice by slice; on the leader of a group only.

    Every rank decodes its rows of a slice and finishes its share of the slice's frames. What lies beyond the end of the
    input was only repeated to fill the last latent frame, and is dropped.

    Args:
        restored: windows of latents from number `start.sampled` on. inputs: the frames from the one that ends latent
            `start.encoded` on.
    """
    infer, pace, at = restorer.infer, Pace(restorer.device), restorer.grid.factor * start.encoded
    for part in decode(restored, restorer, rows, start):
        _leave_out(inputs, part.first - at)
        degraded, at = list(islice(inputs, part.frames)), part.first + part.frames
        if part.wanted:
            results = finish_frames(part.clip, degraded[rows.frame_span(part.frames)], size, restorer)
            whole = [rows.to_leader(result, part.frames) for result in results]
            if restorer.parallel.leads:
                whole = [result[: len(degraded)] for result in whole]
                (stages, marks), compared = infer.guard.marks(), restorer.finish.pairs
                copy = HostCopy(*stored(whole[-1]), *(whole if compared else ()), marks)
                yield Finished(copy, [frame.time for frame in degraded], stages, compared, part.first)
        pace.step()


def _leave_out(frames: Iterator[Frame], count: int) -> None:
    next(islice(frames, count, count), None)


@dataclass(frozen=True)
class Decoded:
    """Consecutive frames first, ..., first + frames - 1 of a shot.

    clip: this rank's share of them, whole pictures [3, t, h', w']. wanted: False: they only lead to those that are.
    """

    clip: Tensor
    first: int
    frames: int
    wanted: bool


def decode(restored: Iterator[Tensor], restorer: Restorer, rows: Rows, start: RunIn) -> Iterator[Decoded]:
    """The frames of windows of latents [t, h, w, c] from number `start.sampled` on, slice by slice."""
    infer, grid = restorer.infer, restorer.grid
    memory, latent = infer.new_memory(rows.exchange), start.sampled
    for window in restored:
        unneeded = min(max(start.decoded - latent, 0), len(window))
        latent += unneeded
        if unneeded == len(window):
            continue
        for piece in window[unneeded:].split(grid.slice_latents or len(window)):
            restorer.parallel.process.alive("a slice of a shot")
            begins = latent == start.decoded  # a decoder gives one frame for the first latent
            frames = grid.factor * len(piece) - begins * (grid.factor - 1)
            clip = rows.to_frames(decode_rows(piece, frames, restorer, rows, memory), infer.vae.spatial_factor)
            wanted, latent = latent >= start.wanted, latent + len(piece)
            yield Decoded(clip, grid.first_frame(latent) - frames, frames, wanted)


def decode_rows(
    piece: Tensor, frames: int, restorer: Restorer, rows: Rows, memory: ClipMemory | TileMemories
) -> Tensor:
    """[3, frames, own rows, w'] of latents [t, h, w, c], about [-1, 1]; no rows on a rank without."""
    infer = restorer.infer
    if rows.holds_rows:
        return infer.decode_slice(rows.own(piece, 1), memory)
    width = piece.shape[2] * infer.vae.spatial_factor
    return torch.empty(3, frames, 0, width, dtype=infer.stages.vae_dtype, device=restorer.device)


def finish_frames(clip: Tensor, degraded: list[Frame], size: tuple[int, int], restorer: Restorer) -> tuple[Tensor, ...]:
    """Results, u8 [T, 3, h, w], of decoded frames [3, T, h', w'] and the input's, a few at a time.

    Where both are wanted (`Finish.pairs`) the resized input comes before them. Frames beyond the end of the input are
    zeros.
    """
    count = 2 if restorer.finish.pairs else 1
    parts = [torch.zeros(clip.shape[1], 3, *size, dtype=torch.uint8, device=restorer.device) for _ in range(count)]
    for start in range(0, len(degraded), FINISH_FRAMES):
        given = degraded[start : start + FINISH_FRAMES]
        rgb = rgb_of(given, restorer.device)
        resized = torch.stack([restorer.geometry.to_output(frame, restorer.device) for frame in rgb])
        part = clip[:, start : start + len(given)].to(restorer.device)
        results = [to_8_bit(resized)] if restorer.finish.pairs else []
        results.append(to_8_bit(finish(part, resized, restorer.finish)))
        for target, result in zip(parts, results, strict=True):
            target[start : start + len(given)] = result
    return tuple(parts)


def finish(clip: Tensor, degraded: Tensor, wishes: Finish) -> Tensor:
    """The padding cut off, and the colours of the input given back: [T, 3, h, w] float32 about [-1, 1].

    Args:
        clip: [3, T', h', w'] decoded. degraded: [T, 3, h, w] the resized input, T <= T'.
    """
    frames, _, height, width = degraded.shape
    content = clip[:, :frames, :height, :width].transpose(0, 1).float()
    result = fix_colour(wishes.color_fix, content, degraded)
    return result if wishes.strength == 1.0 else mixed(degraded, result, wishes.strength)
