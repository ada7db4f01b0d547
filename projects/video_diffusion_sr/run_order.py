"""Runs the files in order: while one file is computed, the next is opened and earlier ones are written.

An error of one file becomes a log line that starts with its name; the run continues with the other files.
"""

import logging
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.crashes import History
from common.logger import get_logger
from data.media import place_of
from projects.video_diffusion_sr.clip_run import WRITE_BEHIND, ClipRun
from projects.video_diffusion_sr.file_errors import InputError, NotFiniteError, OutputError, SkippedError
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.restore import compute, restore_clip
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing
from projects.video_diffusion_sr.run_files import report_error, say
from projects.video_diffusion_sr.run_page.lines import outcome as about

logger = get_logger(__name__)

WRITING = 3 * WRITE_BEHIND  # limit of bytes that wait to be written while the next file computes: three clips
MOST_WRITING = 8  # limit of files that are written at a time; compressing a picture takes one core


@dataclass(frozen=True)
class Job:
    """The settings that all files of a run share.

    output_dir: the folder of results.
    restorer: the networks and their settings.
    plans: the plan of each file; None: the default plan.
    existing: see `restore_clip`.
    history: records which files are being processed.
    alone: files that are processed last and one at a time, because of an earlier crash, see `common.crashes`.
    root: the folder that was searched, whose subfolders are kept in `output_dir`; None: they are not kept.
    on_report: called with the report of every restored file, in their order.
    """

    output_dir: Path
    restorer: Restorer
    plans: Mapping[Path, MemoryPlan | None]
    existing: Existing
    on_report: Callable[[Report], None] | None = None
    root: Path | None = None
    history: History = field(default_factory=History)
    alone: tuple[Path, ...] = ()

    def folder(self, path: Path) -> Path:
        """The folder of a file's result."""
        return self.output_dir if self.root is None else place_of(path, self.root, self.output_dir)

    def prefix(self, path: Path) -> str:
        """The prefix of a file's log line."""
        return f"[{list(self.plans).index(path) + 1}/{len(self.plans)}] "

    @property
    def shows_progress(self) -> bool:
        return sys.stderr.isatty()


def restore_all(paths: Iterable[Path], job: Job, several_in_flight: bool = True) -> Iterator[bool]:
    """Restore files, and log a line for each in their order. Yields whether each file was restored.

    If ranks do not share clips and reading and writing have threads, the next file is opened and read while one file
    computes, and earlier files are still written, as many as `too_many` allows.

    Args:
        several_in_flight: False: complete each file before taking the next one, as a journal requires.
    """
    if several_in_flight and job.restorer.overlap and job.restorer.parallel.size == 1:
        yield from _in_flight(iter(paths), job)
        return
    for path in paths:
        yield restore_one(path, job)


def restore_one(path: Path, job: Job) -> bool:
    """Restore one file and log a line. Returns whether it was restored; the line of a failed file has the reason.

    If ranks share a clip, only errors that all ranks raise together are caught. After any other error the ranks would
    wait for each other, so it ends the job, and torchrun may restart it.
    """
    outcome: Report | Exception | None
    job.history.begun(str(path))
    try:
        outcome = restore_clip(path, job.folder(path), job.restorer, job.shows_progress, job.plans[path], job.existing)
    except (SkippedError, InputError, OutputError, NotFiniteError) as error:
        outcome = error
    except Exception as error:
        if job.restorer.parallel.size > 1:
            raise
        outcome = error
    return _tell(path, outcome, job)


def _in_flight(paths: Iterator[Path], job: Job) -> Iterator[bool]:
    """As `restore_all`, with the next file opened during computation, and earlier files still being written."""
    opened: list[ClipRun] = []  # files whose frames are not all computed
    computed: deque[Computed] = deque()  # computed files whose line is not logged yet
    most = files_written_at_once(os.cpu_count() or 1)

    def open_clip(path: Path) -> ClipRun:
        job.history.begun(str(path))
        run = ClipRun(path, job.folder(path), job.restorer, job.existing)
        opened.append(run)
        return run

    def tell_first() -> bool:
        first = computed[0]
        failure = first.outcome.exception()
        assert failure is None or isinstance(failure, Exception), "only the main thread is interrupted"
        outcome = failure or first.outcome.result()
        return _tell(computed.popleft().path, outcome, job)  # removed last, as an error must stop its writer

    with ThreadPoolExecutor(1, "opener") as opener, ThreadPoolExecutor(most, "finisher") as finisher:
        try:
            following = _submit(opener, open_clip, paths)
            while following is not None:
                (path, future), following = following, _submit(opener, open_clip, paths)
                outcome = _computed(path, future, job, opened)
                if isinstance(outcome, ClipRun):
                    computed.append(Computed(path, finisher.submit(_complete, outcome), outcome))
                else:
                    computed.append(Computed(path, _failed(outcome)))
                while computed and (computed[0].outcome.done() or too_many([file.behind for file in computed], most)):
                    yield tell_first()
            while computed:
                yield tell_first()
        except BaseException as error:  # on Ctrl-C or a signal, unfinished files must be removed
            opener.shutdown(cancel_futures=True)
            for file in computed:
                file.stop()
            for run in opened:
                run.__exit__(type(error), error, error.__traceback__)
            raise


@dataclass(frozen=True)
class Computed:
    """A file whose frames are all computed.

    path: the input.
    outcome: the report of the file, when it is written, or its error.
    run: writes the remaining frames; None if the file has failed.
    """

    path: Path
    outcome: Future[Report | None]
    run: ClipRun | None = None

    @property
    def behind(self) -> int:
        """The number of bytes that may wait for its writer; 0 if it is written."""
        return 0 if self.run is None or self.outcome.done() else self.run.behind

    def stop(self) -> None:
        if self.run is not None:
            self.run.stop()


def files_written_at_once(cores: int) -> int:
    """The number of files that are written at a time: half of the cores, since other threads need cores too."""
    return min(MOST_WRITING, max(cores // 2, 2))


def too_many(behind: Sequence[int], most: int) -> bool:
    """Whether the next file must wait until another one is written.

    Args:
        behind: for each computed file, the number of bytes that may wait for its writer; 0 for written files.
        most: the largest number of files that are written at a time.
    """
    return sum(size > 0 for size in behind) > most or sum(behind) > WRITING


def _complete(run: ClipRun) -> Report | None:
    with run:
        return run.complete()


def _submit(
    opener: ThreadPoolExecutor, open_clip: Callable[[Path], ClipRun], paths: Iterator[Path]
) -> tuple[Path, Future[ClipRun]] | None:
    """Start to open the next file; None after the last one."""
    path = next(paths, None)
    return None if path is None else (path, opener.submit(open_clip, path))


def _computed(path: Path, future: Future[ClipRun], job: Job, opened: list[ClipRun]) -> ClipRun | Exception:
    """Compute all frames of a file, and remove it from `opened`. Returns it with its writer, or with its error."""
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


def _failed(error: Exception) -> Future[Report | None]:
    future: Future[Report | None] = Future()
    future.set_exception(error)
    return future


def _tell(path: Path, outcome: Report | Exception | None, job: Job) -> bool:
    """Log the file's line. Returns whether it was restored, or skipped as requested."""
    good = _say(path, outcome, job)
    job.history.finished(str(path), good)
    return good


def _say(path: Path, outcome: Report | Exception | None, job: Job) -> bool:
    parallel, prefix = job.restorer.parallel, job.prefix(path)
    if isinstance(outcome, SkippedError):
        say(parallel, logging.INFO, f"{prefix}{outcome}", about(path, "skipped"))
        return True
    if isinstance(outcome, Exception):
        if parallel.is_leader:
            report_error(outcome, path, prefix)
        if isinstance(outcome, torch.OutOfMemoryError):
            traceback.clear_frames(outcome.__traceback__)  # frees the device memory that they hold
            torch.cuda.empty_cache()
        return False
    if outcome is not None:
        logger.info("%s%s", prefix, outcome.line())
        if outcome.waits is not None:
            logger.debug("%s%s: %s", prefix, outcome.source.name, outcome.waits.line())
        if outcome.damage:
            logger.warning("%s%s", prefix, outcome.damage)
        if job.on_report is not None:
            job.on_report(outcome)
    return True
