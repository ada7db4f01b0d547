"""Restores one file: read, prepare, encode, condition, sample, decode, finish, write.

All steps are streams. Slices of frames are read, resized and encoded, and slices of latents are decoded, finished and
written, so that only one window of latents is held at a time. Reading and writing happen in separate threads
(`clip_run.py`), and this module never waits for the device.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from common.noise_ahead import NoiseAhead
from data.media import Frame, MediaInfo
from projects.video_diffusion_sr.clip_run import ClipRun
from projects.video_diffusion_sr.file_errors import InputError, NotFiniteError, OutputError, rebuild
from projects.video_diffusion_sr.finishing import Finisher, PixelForm
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.progress import Progress, ProgressBar
from projects.video_diffusion_sr.report import Report, reset_peak
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing
from projects.video_diffusion_sr.segments import (
    FROM_ITS_BEGINNING,
    Place,
    RunIn,
    Shot,
    ShotInputs,
    Shots,
    without_first,
)
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS, in_windows
from projects.video_diffusion_sr.to_frames import Finished, decode_and_finish
from projects.video_diffusion_sr.to_latents import encode, prepare


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
        source: the input.
        output_dir: the folder of the result.
        show_progress: show a progress bar.
        plan: the memory plan; None: `Restorer.default_plan`.
        existing: what to do if the result exists, or another run is making it.
        new_progress: makes the progress from (name, frames, whether to show it).
    Returns:
        The report; None on ranks other than the group's leader. The result gets its name only when it is complete.
    Raises:
        InputError: the file cannot be opened or read to its end; nothing is left behind.
        OutputError, MediaError: the result cannot be written; nothing is left behind.
        NotFiniteError: a network returned NaN or infinite values.
        SkippedError: see `existing`.
        All ranks that share the clip raise these errors together. After any other error the ranks may wait for each
        other.
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
    """Compute all frames of one file, and pass them to the run's writer as they are finished."""
    reset_peak(restorer.device)
    run.begin(restorer.apply_plan(run.info, plan))
    shared = restorer.parallel.size > 1
    with (
        restorer.parallel.outcomes.same_for_all(InputError, OutputError, NotFiniteError, rebuild=rebuild),
        new_progress(run.source.name, run.info.frame_count_hint, show_progress and run.is_leader) as progress,
    ):
        form = PixelForm(run.path, run.stored)
        for finished in restore_frames(run.info, run.frames, run.inputs, restorer, progress, form, run.place):
            run.write(finished)
            progress.advance("decode", finished.count)
        if shared:  # every rank checks its own results
            restorer.infer.guard.check(run.source.name)
        run.end()


def restore_frames(
    info: MediaInfo,
    frames: Iterator[Frame],
    inputs: Iterator[Frame],
    restorer: Restorer,
    progress: Progress,
    form: PixelForm = PixelForm(),  # noqa: B008 (frozen)
    place: Place = Place(),  # noqa: B008 (frozen)
) -> Iterator[Finished]:
    """Yield the finished frames of a clip slice by slice, on the leader of a group only.

    The plan of the clip must be applied (`Restorer.apply_plan`).

    Args:
        frames, inputs: the frames of the file from `Restorer.first_read` on, once for the networks and once for the
            colours of the result. Those in `frames` mark the beginnings of shots.
        form: conversion of pixels before and after the networks.
        place: the first frame to yield.
    """
    restorer.infer.guard.begin()
    start, first = restorer.run_in(place), restorer.first_read(place)
    grid, shot_start = restorer.grid, place.shot
    skipped = {"encode": first, "sample": shot_start + grid.first_frame(start.sampled), "decode": place.frame}
    for stage, count in skipped.items():
        progress.advance(stage, count)
    restorer.infer.expect(restorer.expected_latents(info) if first == 0 else None)
    finisher = Finisher(restorer.geometry.output_size(info.height, info.width), restorer, form, info.transparent)
    for shot in Shots(_counted(frames, first, progress), first, shot_start):
        for finished in restore_shot(shot, ShotInputs(shot, inputs), info, finisher, progress, start):
            borders = grid.borders(shot.first + finished.first, finished.count, shot.first)
            yield replace(finished, borders=borders)
        start = FROM_ITS_BEGINNING


def _counted(frames: Iterator[Frame], count: int, progress: Progress) -> Iterator[Frame]:
    """Yield the frames, then report their number, plus `count` for those before them, to the progress."""
    for frame in frames:
        count += 1
        yield frame
    progress.expect(count)


def restore_shot(
    shot: Shot,
    inputs: Iterator[Frame],
    info: MediaInfo,
    finisher: Finisher,
    progress: Progress,
    start: RunIn = FROM_ITS_BEGINNING,
) -> Iterator[Finished]:
    """Yield the finished frames of one shot, to which no frames are carried over; see `restore_frames`.

    Args:
        start: from where an interrupted shot is recomputed.
    """
    restorer = finisher.restorer
    rows, latent_size = restorer.rows(info), restorer.latent_size(info)
    prepared = prepare(shot, restorer, rows, finisher.form.path)  # [3, own rows, w'] each
    latents = encode(prepared, latent_size, restorer, rows, progress, start.encoded)  # chunks [t, h, w, c]
    latents = without_first(latents, start.sampled - start.encoded)
    restored = sample(latents, restorer, progress, start.sampled)  # chunks [t, h, w, c]
    return decode_and_finish(restored, inputs, finisher, rows, start)


def sample(latents: Iterator[Tensor], restorer: Restorer, progress: Progress, start: int = 0) -> Iterator[Tensor]:
    """Yield the restored latents [t, h, w, c] of a shot, window by window; `start`: see `first` of `in_windows`."""
    infer, factor, first_piece = restorer.infer, restorer.infer.vae.temporal_factor, next(latents)
    _, height, width, channels = first_piece.shape
    with ExitStack() as stack:
        noises = {
            kind: stack.enter_context(NoiseAhead(restorer.seed, kind, (height, width, channels), first_piece.device))
            for kind in infer.noise_kinds
        }

        def restore_window(window: Tensor, first: int) -> Tensor:
            drawn = {kind: noise.take(first, len(window)) for kind, noise in noises.items()}
            condition = infer.condition(window, drawn.get("condition"))  # t h w c+1
            restored = infer.sample(condition, drawn["start"])
            progress.advance("sample", (len(window) - (SHARED_LATENTS if first else 0)) * factor)
            return restored.to(window.device)

        def expected() -> Iterator[Tensor]:
            first = start
            for piece in chain([first_piece], latents):
                for noise in noises.values():
                    noise.expect(first, len(piece))
                first += len(piece)
                yield piece

        yield from in_windows(expected(), restore_window, restorer.window, start)
