"""One file, from its name to the name of its result: read, prepare, encode, condition, sample, decode, finish, write.

Everything streams: a slice of frames is read, resized and encoded, a slice of latents is decoded, finished and written.
What is held is one window of latents. Reading and writing happen in threads of their own (`clip_run.py`), and nothing
in here waits for the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import gcd
from pathlib import Path

import torch
from torch import Tensor

from common.distributed.row_parallel import Rows
from common.kernels.transfer import HostCopy, Pace, to_device
from common.seed import frame_noise
from data.colour.path import PixelPath
from data.media import Frame, MediaInfo
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.clip_run import ClipRun
from projects.video_diffusion_sr.file_errors import InputError, NotFiniteError, OutputError, rebuild
from projects.video_diffusion_sr.finishing import Finisher, pixels_of
from projects.video_diffusion_sr.long_clips import SHARED_LATENTS, in_windows
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.progress import Progress, ProgressBar
from projects.video_diffusion_sr.report import Report, reset_peak
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing

PREPARE_FRAMES = 4  # cross to the device and are converted together, at most
Stored = Callable[[Tensor], tuple[Tensor, ...]]


def restore_clip(
    source: Path,
    output_dir: Path,
    restorer: Restorer,
    show_progress: bool = False,
    plan: MemoryPlan | None = None,
    existing: Existing = "replace",
    new_progress: Callable[[str, int | None, bool], Progress] = ProgressBar,
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
    new_progress: Callable[[str, int | None, bool], Progress] = ProgressBar,
) -> None:
    """Everything that the device does for one file; its frames are handed to the run's writer as they are made."""
    reset_peak(restorer.device)
    run.begin(restorer.follow(run.info, plan))
    shared = restorer.parallel.size > 1
    with (
        restorer.parallel.verdicts.same_for_all(InputError, OutputError, NotFiniteError, rebuild=rebuild),
        new_progress(run.source.name, run.info.frame_count_hint, show_progress and run.is_leader) as progress,
    ):
        for finished in restore_frames(run.info, run.frames, run.inputs, restorer, progress, run.stored, run.path):
            run.write(finished)
            progress.advance("decode", finished.count)
        if shared:  # every rank checks what it computed itself
            restorer.infer.guard.check(run.source.name)
        run.end()


@dataclass(frozen=True)
class Finished:
    """A slice of finished frames on their way to the host, on the rank that writes them.

    times: T, seconds. stages: which of them the marks stand for, see `FiniteGuard.marks`.
    compared: the frames come with what a comparison and a report's page show.
    """

    copy: HostCopy
    times: list[Fraction]
    stages: tuple[str, ...]
    compared: bool

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
    path: PixelPath = PixelPath(),  # noqa: B008 (frozen)
) -> Iterator[Finished]:
    """The finished frames, slice by slice, of a clip that `restorer` follows; on the leader of a group only.

    Args:
        frames, inputs: the frames of the file twice: for the networks, and for the colours of the result.
        stored: makes of frames on their device what a file stores, see `MediaWriter.planes_for`.
        path: how pixels become the networks', and results what `stored` takes.
    """
    restorer.infer.guard.begin()
    times: list[Fraction] = []
    size, latent_size = restorer.geometry.output_size(info.height, info.width), restorer.latent_size(info)
    rows = restorer.rows(info)
    prepared = prepare(frames, restorer, rows, times, path)  # [3, own rows, w'] each
    latents = encode(prepared, latent_size, restorer, rows, progress)  # [t, h, w, c] pieces
    restored = sample(latents, restorer, progress)  # [t, h, w, c] pieces
    return decode_and_finish(restored, inputs, times, Finisher(size, restorer, path, info.transparent), rows, stored)


def prepare(
    frames: Iterator[Frame],
    restorer: Restorer,
    rows: Rows,
    times: list[Fraction],
    path: PixelPath = PixelPath(),  # noqa: B008 (frozen)
) -> Iterator[Tensor]:
    """This rank's rows of resized, padded frames, [3, rows, w'] float32 in [-1, 1]; times are appended to `times`."""
    scale, geometry = restorer.infer.vae.spatial_factor, restorer.geometry
    # Together as many as divide a slice, which begins after the first frame: nobody waits for frames of the next slice.
    together, count = gcd(PREPARE_FRAMES, restorer.slice_frames or PREPARE_FRAMES), 1
    while group := list(islice(frames, count)):
        count = together
        times.extend(frame.time for frame in group)
        for rgb in pixels_of(group, restorer, path)[0]:
            pixels = geometry.to_network(geometry.to_output(rgb, restorer.device))
            # A copy of these rows: a view of them would hold the whole frame.
            yield rows.shard(pixels, 1, scale).to(restorer.infer.stages.waiting_room).contiguous()


@dataclass(frozen=True)
class Slice:
    """Consecutive frames of a clip. clip: [3, T, rows, w']. real: without the repeated ones. first: latent frame."""

    clip: Tensor
    real: int
    first: int


def encode(
    frames: Iterator[Tensor], latent_size: tuple[int, int], restorer: Restorer, rows: Rows, progress: Progress
) -> Iterator[Tensor]:
    """Latents [t, h, w, c] of whole pictures, slice by slice, on every rank that shares the clip.

    The last frame is repeated to fill the last slice's latents.

    Args:
        frames: this rank's rows of the padded frames, [3, rows, w'] each. latent_size: (h, w) of whole pictures.
    """
    infer, seen, pace = restorer.infer, 0, Pace(restorer.device)
    memory = infer.new_memory(rows.exchange)
    for piece in slices(frames, restorer.slice_frames, infer.vae.temporal_factor):
        restorer.parallel.process.alive(f"latent frame {piece.first} of a clip")
        yield rows.unshard(encode_rows(piece, latent_size, restorer, rows, memory))
        pace.step()
        seen += piece.real
        progress.advance("encode", piece.real)
    progress.expect(seen)


def encode_rows(
    piece: Slice, latent_size: tuple[int, int], restorer: Restorer, rows: Rows, memory: ClipMemory | TileMemories
) -> Tensor:
    """Latents [t, own rows, w, c] of one slice; no rows on a rank without."""
    infer, factor = restorer.infer, restorer.infer.vae.temporal_factor
    latents = piece.clip.shape[1] // factor + (piece.first == 0 and factor > 1)  # a clip's first frame is one latent
    shape = (latents, *latent_size, infer.vae.latent_channels)
    if not rows.holds_rows:
        return torch.empty(shape[0], 0, *shape[2:], device=restorer.device)
    noise = None
    if restorer.use_sample:
        noise = frame_noise(restorer.seed, "posterior", piece.first, *shape)
        noise = to_device(rows.shard(noise, 1), restorer.device)
    return infer.encode_slice(piece.clip, memory, noise)


def slices(frames: Iterator[Tensor], size: int | None, factor: int) -> Iterator[Slice]:
    """Clips of 1 + size, size, size, ... frames [3, h', w']; the last is as short as it can be. size: None for one."""
    waiting, wanted, first = [], None if size is None else 1 + size, 0
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == wanted:
            yield Slice(torch.stack(waiting, dim=1), wanted, first)
            waiting, wanted, first = [], size, first + size // factor + (first == 0)
    if waiting:
        missing = -(len(waiting) - (first == 0)) % factor
        yield Slice(torch.stack(waiting + waiting[-1:] * missing, dim=1), len(waiting), first)


def sample(latents: Iterator[Tensor], restorer: Restorer, progress: Progress) -> Iterator[Tensor]:
    """Restored latents [t, h, w, c], one window after the other."""
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

    return in_windows(latents, restore_window, restorer.window)


def decode_and_finish(
    restored: Iterator[Tensor],
    inputs: Iterator[Frame],
    times: list[Fraction],
    finisher: Finisher,
    rows: Rows,
    stored: Stored = as_rgb,
) -> Iterator[Finished]:
    """Finished frames, slice by slice; on the leader of a group only.

    Every rank decodes its rows of a slice and finishes its share of the slice's frames. What lies beyond the end of the
    input was only repeated to fill the last latent frame, and is dropped.
    """
    restorer = finisher.restorer
    infer, factor, done, pace = restorer.infer, restorer.infer.vae.temporal_factor, 0, Pace(restorer.device)
    memory = infer.new_memory(rows.exchange)
    step = None if restorer.slice_frames is None else restorer.slice_frames // factor
    for window in restored:
        for piece in window.split(step or len(window)):
            restorer.parallel.process.alive("a slice of a clip")
            frames = factor * len(piece) - (done == 0) * (factor - 1)  # a clip's first latent is one frame
            clip = rows.to_frames(decode_rows(piece, frames, restorer, rows, memory), infer.vae.spatial_factor)
            degraded = list(islice(inputs, frames))
            parts = finisher.finish(clip, degraded[rows.frame_span(frames)])
            whole = [rows.to_leader(part, frames) for part in parts]
            if restorer.parallel.is_leader:
                whole = [part[: len(degraded)] for part in whole]
                (stages, marks), compared = infer.guard.marks(), restorer.finish.pairs
                copy = HostCopy(*stored(whole[-1]), *(whole if compared else ())[:2], marks)
                yield Finished(copy, times[: len(degraded)], stages, compared)
            del times[: len(degraded)]  # a stream has no end of them
            done += len(degraded)
            pace.step()


def decode_rows(
    piece: Tensor, frames: int, restorer: Restorer, rows: Rows, memory: ClipMemory | TileMemories
) -> Tensor:
    """[3, frames, own rows, w'] of latents [t, h, w, c], about [-1, 1]; no rows on a rank without."""
    infer = restorer.infer
    if rows.holds_rows:
        return infer.decode_slice(rows.shard(piece, 1), memory)
    width = piece.shape[2] * infer.vae.spatial_factor
    return torch.empty(3, frames, 0, width, dtype=infer.stages.vae_dtype, device=restorer.device)
