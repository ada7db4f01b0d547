"""One file, from its name to the name of its result: read, prepare, encode, condition, sample, decode, finish, write.

Everything streams: a slice of frames is read, resized and encoded, a slice of latents is decoded, finished and written.
What is held is one window of latents. Reading and writing happen in threads of their own (`clip_run.py`), and nothing
in here waits for the device.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from math import gcd
from pathlib import Path

import torch
from torch import Tensor

from common.distributed.row_parallel import Rows
from common.kernels.transfer import HostCopy, Pace, to_device
from common.seed import frame_noise
from data.media import Frame, MediaInfo, rgb_of
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.clip_run import ClipRun
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.file_errors import InputError, NotFiniteError, OutputError, rebuild
from projects.video_diffusion_sr.geometry import to_8_bit
from projects.video_diffusion_sr.long_clips import SHARED_LATENTS, in_windows
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.predict import FINISH_FRAMES
from projects.video_diffusion_sr.progress import Progress
from projects.video_diffusion_sr.report import Report, reset_peak
from projects.video_diffusion_sr.request import Finish
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing
from projects.video_diffusion_sr.strength import mixed
from projects.video_diffusion_sr.stretches import (
    FROM_ITS_BEGINNING,
    Place,
    RunIn,
    Shot,
    ShotInputs,
    Shots,
    without_first,
)

PREPARE_FRAMES = 4  # cross to the device and are converted together, at most
Stored = Callable[[Tensor], tuple[Tensor, ...]]


def restore_clip(
    source: Path,
    output_dir: Path,
    restorer: Restorer,
    show_progress: bool = False,
    plan: MemoryPlan | None = None,
    existing: Existing = "replace",
    new_progress: Callable[[str, int | None, bool], Progress] = Progress,
) -> Report | None:
    """Restore one file.

    Args:
        plan: how to run it; None: `Restorer.default_plan`.
        existing: what to do with a result that is there, or that another run makes now.
        new_progress: (name, frames, whether to show it) -> what is told of the progress.
    Returns:
        What was done; None on ranks that only help. The result appears under its name only when it is complete.
    Raises:
        InputError: the file cannot be opened or read to its end; nothing is left behind.
        OutputError, MediaError: the result cannot be written; nothing is left behind.
        NotFiniteError: a network returned values that are not numbers.
        SkippedError: see `existing`.
        These four come on all ranks that share the clip, and only these: after any other error the ranks may wait for
        each other.
    """
    with ClipRun(source, output_dir, restorer, existing) as run:
        compute(run, restorer, plan, show_progress, new_progress)
        return run.complete()


def compute(
    run: ClipRun,
    restorer: Restorer,
    plan: MemoryPlan | None,
    show_progress: bool = False,
    new_progress: Callable[[str, int | None, bool], Progress] = Progress,
) -> None:
    """Everything that the device does for one file; its frames are handed to the run's writer as they are made."""
    reset_peak(restorer.device)
    run.begin(restorer.follow(run.info, plan))
    shared = restorer.parallel.size > 1
    with (
        restorer.parallel.verdicts.same_for_all(InputError, OutputError, NotFiniteError, rebuild=rebuild),
        new_progress(run.source.name, run.info.frame_count_hint, show_progress and run.leads) as progress,
    ):
        frames = restore_frames(run.info, run.frames, run.inputs, restorer, progress, run.stored, run.place)
        for finished in frames:
            run.write(finished)
            progress.advance("decode", finished.count)
        if shared:  # every rank checks what it computed itself
            restorer.infer.guard.check(run.source.name)
        run.end()


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


def restore_frames(
    info: MediaInfo,
    frames: Iterator[Frame],
    inputs: Iterator[Frame],
    restorer: Restorer,
    progress: Progress,
    stored: Stored = as_rgb,
    place: Place | None = None,
) -> Iterator[Finished]:
    """The finished frames, slice by slice, of a clip that `restorer` follows; on the leader of a group only.

    Args:
        frames, inputs: the frames of the file twice, from `first_read` on: for the networks, and for the colours of the
            result. The first ones say where shots begin.
        stored: makes of frames, u8 [T, 3, h, w] on their device, what a file stores, see `MediaWriter.planes_for`.
        place: the first frame that is wanted; None: that of the clip.
    """
    restorer.infer.guard.begin()
    place = place or Place()
    start, first = restorer.run_in(place), restorer.first_read(place)
    grid, shot_start = restorer.grid, place.shot
    skipped = {"encode": first, "sample": shot_start + grid.first_frame(start.sampled), "decode": place.frame}
    for stage, count in skipped.items():
        progress.advance(stage, count)
    for shot in Shots(_counted(frames, first, progress), first, shot_start):
        for finished in restore_shot(shot, ShotInputs(shot, inputs), info, restorer, progress, stored, start):
            borders = grid.borders(shot.first + finished.first, finished.count, shot.first)
            yield replace(finished, borders=borders)
        start = FROM_ITS_BEGINNING


def _counted(frames: Iterator[Frame], count: int, progress: Progress) -> Iterator[Frame]:
    """The frames; after the last one the progress learns how many there are, `count` before these."""
    for frame in frames:
        count += 1
        yield frame
    progress.expect(count)


def restore_shot(
    shot: Shot,
    inputs: Iterator[Frame],
    info: MediaInfo,
    restorer: Restorer,
    progress: Progress,
    stored: Stored = as_rgb,
    start: RunIn = FROM_ITS_BEGINNING,
) -> Iterator[Finished]:
    """The finished frames of one shot, into which nothing is carried; see `restore_frames`.

    Args:
        start: what is computed again of a shot that was interrupted.
    """
    size, latent_size = restorer.geometry.output_size(info.height, info.width), restorer.latent_size(info)
    rows = restorer.rows(info)
    prepared = prepare(shot, restorer, rows)  # [3, own rows, w'] each
    latents = encode(prepared, latent_size, restorer, rows, progress, start.encoded)  # [t, h, w, c] pieces
    latents = without_first(latents, start.sampled - start.encoded)
    restored = sample(latents, restorer, progress, start.sampled)  # [t, h, w, c] pieces
    return decode_and_finish(restored, inputs, size, restorer, rows, stored, start)


def prepare(frames: Iterator[Frame], restorer: Restorer, rows: Rows) -> Iterator[Tensor]:
    """This rank's rows of resized, padded frames, [3, rows, w'] float32 in [-1, 1]."""
    scale, geometry = restorer.infer.vae.spatial_factor, restorer.geometry
    # Together as many as divide a slice, which begins after the first frame: nobody waits for frames of the next slice.
    together, count = gcd(PREPARE_FRAMES, restorer.slice_frames or PREPARE_FRAMES), 1
    while group := list(islice(frames, count)):
        count = together
        for rgb in rgb_of(group, restorer.device):
            pixels = geometry.to_network(geometry.to_output(rgb, restorer.device))
            # A copy of these rows: a view of them would hold the whole frame.
            yield rows.own(pixels, 1, scale).to(restorer.infer.stages.waiting_room).contiguous()


@dataclass(frozen=True)
class Slice:
    """Consecutive frames of a shot. clip: [3, T, rows, w']. real: without the repeated ones. first: latent frame.
    latents: latent frames."""

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
    """Latents [t, h, w, c] of whole pictures, slice by slice, on every rank that shares the clip.

    The last frame is repeated to fill the last slice's latents.

    Args:
        frames: this rank's rows of the padded frames of a shot, [3, rows, w'] each. latent_size: (h, w) of whole
            pictures. first: number of the first latent frame, which the first frame ends; a slice begins behind it.
    """
    infer, pace = restorer.infer, Pace(restorer.device)
    memory = infer.new_memory(rows.exchange)
    for piece in slices(frames, restorer.slice_frames, infer.vae.temporal_factor, first):
        restorer.parallel.process.alive(f"latent frame {piece.first} of a shot")
        yield rows.whole(encode_rows(piece, latent_size, restorer, rows, memory))
        pace.step()
        progress.advance("encode", piece.real)


def encode_rows(
    piece: Slice, latent_size: tuple[int, int], restorer: Restorer, rows: Rows, memory: ClipMemory | TileMemories
) -> Tensor:
    """Latents [t, own rows, w, c] of one slice; no rows on a rank without."""
    infer = restorer.infer
    shape = (piece.latents, *latent_size, infer.vae.latent_channels)
    if not rows.holds_rows:
        return torch.empty(shape[0], 0, *shape[2:], device=restorer.device)
    noise = None
    if restorer.use_sample:
        noise = frame_noise(restorer.seed, "posterior", piece.first, *shape)
        noise = to_device(rows.own(noise, 1), restorer.device)
    return infer.encode_slice(piece.clip, memory, noise)


def slices(frames: Iterator[Tensor], size: int | None, factor: int, first: int = 0) -> Iterator[Slice]:
    """Clips of 1 + size, size, size, ... frames [3, h', w']; the last is as short as it can be. size: None for one.

    Args:
        factor: frames of a latent frame; the first frame has one of its own, number `first`.
    """
    waiting, wanted, alone = [], None if size is None else 1 + size, 1
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == wanted:
            latents = size // factor + alone
            yield Slice(torch.stack(waiting, dim=1), wanted, first, latents)
            waiting, wanted, first, alone = [], size, first + latents, 0
    if waiting:
        missing = -(len(waiting) - alone) % factor
        clip = torch.stack(waiting + waiting[-1:] * missing, dim=1)
        yield Slice(clip, len(waiting), first, (clip.shape[1] - alone) // factor + alone)


def sample(latents: Iterator[Tensor], restorer: Restorer, progress: Progress, start: int = 0) -> Iterator[Tensor]:
    """Restored latents [t, h, w, c] of a shot, one window after the other. start: see `in_windows`' `first`."""
    infer, factor = restorer.infer, restorer.infer.vae.temporal_factor

    def restore_window(window: Tensor, first: int) -> Tensor:
        noises = {
            kind: to_device(frame_noise(restorer.seed, kind, first, *window.shape), window.device)
            for kind in ("start", "condition")
        }
        condition = infer.condition(window, noises["condition"])  # t h w c+1
        restored = infer.sample(condition, noises["start"])
        progress.advance("sample", (len(window) - (SHARED_LATENTS if first else 0)) * factor)
        return restored.to(window.device)

    return in_windows(latents, restore_window, restorer.window, start)


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
