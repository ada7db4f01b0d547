"""The files of a run, one after the other: which of them is opened, computed and written at a time.

Whatever happens with one file becomes a line that starts with its name; the others go on.
"""

import logging
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from common.logger import get_logger
from projects.video_diffusion_sr.clip_run import ClipRun
from projects.video_diffusion_sr.file_errors import InputError, NotFiniteError, OutputError, SkippedError
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.restore import compute, restore_clip
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing
from projects.video_diffusion_sr.run_files import report_error, say

logger = get_logger(__name__)

WRITING = 3  # files that are still written while the next one computes


@dataclass(frozen=True)
class Job:
    """What all files of a run share.

    plans: of the files, in the order of their numbers; None: the default one. existing: see `restore_clip`.
    """

    output_dir: Path
    restorer: Restorer
    plans: Mapping[Path, MemoryPlan | None]
    existing: Existing

    def prefix(self, path: Path) -> str:
        """What stands before the file's line."""
        return f"[{list(self.plans).index(path) + 1}/{len(self.plans)}] "

    @property
    def shows_progress(self) -> bool:
        return sys.stderr.isatty()


def restore_all(paths: Iterable[Path], job: Job, several_in_flight: bool = True) -> Iterator[bool]:
    """Restore files and say a line for each, in their order; False for a file that failed.

    Where nobody shares a clip and reading and writing have threads, the next file is opened and read while one
    computes, and up to `WRITING` files before it are still written.

    Args:
        several_in_flight: False: a file is complete before the next one is asked for, as a journal needs it.
    """
    if several_in_flight and job.restorer.overlap and job.restorer.parallel.size == 1:
        yield from _in_flight(iter(paths), job)
        return
    for path in paths:
        yield restore_one(path, job)


def restore_one(path: Path, job: Job) -> bool:
    """Restore one file and say so in a line; False, and a line with the reason, when it cannot be done.

    Where ranks share a clip, only what all of them come to alike is caught: after anything else they would wait for
    each other, so it ends the job, and torchrun may start it again.
    """
    outcome: Report | Exception | None
    try:
        outcome = restore_clip(path, job.output_dir, job.restorer, job.shows_progress, job.plans[path], job.existing)
    except (SkippedError, InputError, OutputError, NotFiniteError) as error:
        outcome = error
    except Exception as error:
        if job.restorer.parallel.size > 1:
            raise
        outcome = error
    return _tell(path, outcome, job)


def _in_flight(paths: Iterator[Path], job: Job) -> Iterator[bool]:
    """`restore_all` with one file opened ahead of the one that computes, and some written behind it."""
    opened: list[ClipRun] = []  # whose frames are not all computed
    writing: list[ClipRun] = []
    told: deque[tuple[Path, Future[Report]]] = deque()

    def open_clip(path: Path) -> ClipRun:
        run = ClipRun(path, job.output_dir, job.restorer, job.existing)
        opened.append(run)
        return run

    def complete(run: ClipRun) -> Report:
        with run:
            return run.complete()

    with ThreadPoolExecutor(1, "opener") as opener, ThreadPoolExecutor(WRITING, "finisher") as finisher:
        try:
            following = _submit(opener, open_clip, paths)
            while following is not None:
                (path, future), following = following, _submit(opener, open_clip, paths)
                outcome = _computed(path, future, job, opened)
                if isinstance(outcome, ClipRun):
                    writing.append(outcome)
                    told.append((path, finisher.submit(complete, outcome)))
                else:
                    told.append((path, _failed(outcome)))
                while told and (told[0][1].done() or len(told) > WRITING):
                    path, future = told.popleft()
                    yield _tell(path, future.exception() or future.result(), job)
            for path, future in told:
                yield _tell(path, future.exception() or future.result(), job)
        except BaseException as error:  # Ctrl-C, a signal: nothing unfinished may be left
            opener.shutdown(cancel_futures=True)
            for run in writing:
                run.stop()
            for run in opened:
                run.__exit__(type(error), error, error.__traceback__)
            raise


def _submit(opener: ThreadPoolExecutor, open_clip, paths: Iterator[Path]) -> tuple[Path, Future[ClipRun]] | None:
    """The next file, being opened; None after the last."""
    path = next(paths, None)
    return None if path is None else (path, opener.submit(open_clip, path))


def _computed(path: Path, future: Future[ClipRun], job: Job, opened: list[ClipRun]) -> ClipRun | Exception:
    """The file with all its frames on their way to the writer, or what went wrong with it; `opened` without it."""
    run = None
    try:
        run = future.result()
        compute(run, job.restorer, job.plans[path], job.shows_progress)
        opened.remove(run)
        return run
    except Exception as error:
        if run is not None:
            run.__exit__(type(error), error, error.__traceback__)
            opened.remove(run)
        return error


def _failed(error: Exception) -> Future[Report]:
    future: Future[Report] = Future()
    future.set_exception(error)
    return future


def _tell(path: Path, outcome: Report | Exception | None, job: Job) -> bool:
    """The file's line; was it restored, or skipped as asked?"""
    parallel, prefix = job.restorer.parallel, job.prefix(path)
    if isinstance(outcome, SkippedError):
        say(parallel, logging.INFO, f"{prefix}{outcome}")
        return True
    if isinstance(outcome, Exception):
        if parallel.leads:
            report_error(outcome, path, prefix)
        if isinstance(outcome, torch.OutOfMemoryError):
            traceback.clear_frames(outcome.__traceback__)  # what they hold of the device's memory goes with them
            torch.cuda.empty_cache()
        return False
    if outcome is not None:
        logger.info("%s%s", prefix, outcome.line())
        if outcome.damage:
            logger.warning("%s%s", prefix, outcome.damage)
    return True
