"""Checks and plans all files of a run before the first one starts.

An error of one file becomes a log line that starts with its name; the other files are restored.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.claim import remove_leftovers
from common.crashes import History
from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.logger import get_logger
from data.media import ClipRange, MediaError, Probe, place_of, probe_all
from data.media.clip_range import WHOLE
from data.media.sequence import folder_of, size_in_bytes
from data.media.sequence_writer import why_not_replaced
from projects.video_diffusion_sr.comparison import FOLDER as COMPARE
from projects.video_diffusion_sr.file_errors import (
    CrashError,
    SkippedError,
    sentence,
)
from projects.video_diffusion_sr.find_inputs import find_inputs
from projects.video_diffusion_sr.memory.budget import Clip, clip_of, read_budget
from projects.video_diffusion_sr.memory.plan import MemoryPlan, unplanned
from projects.video_diffusion_sr.output_form import place_of_result, result_options_from_flags
from projects.video_diffusion_sr.result import Existing
from projects.video_diffusion_sr.run_page.lines import outcome
from projects.video_diffusion_sr.settings import RunSettings

logger = get_logger(__name__)

SKIP = "exists"
CRASHED = "the program crashed in the middle of it ({}), probably in its decoder; convert it with another program"


@dataclass(frozen=True)
class Survey:
    """The result of checking all files, the same on every rank.

    total: number of files.
    clips: the files to restore, with the facts for planning.
    sizes: their sizes in bytes.
    failed: number of files that cannot be restored.
    refusal: why the whole request is refused; None if it is not.
    """

    total: int
    clips: dict[Path, Clip]
    sizes: dict[Path, int]
    failed: int
    refusal: str | None = None


def survey(
    args: argparse.Namespace, process: Process, clip_range: ClipRange = WHOLE, history: History | None = None
) -> Survey:
    """Check every file on the leader, which logs the findings and sends them to all ranks.

    Decoders run in a separate process (`probe_all`). If one crashes or hangs, only its file fails. As only the leader
    probes, all ranks agree.
    """
    found = process.broadcast_from_leader(lambda: _look(args, process, clip_range, history or History()))
    if isinstance(found, str):
        return Survey(0, {}, {}, 0, found)
    total, failed, rows = found
    clips = {Path(path): Clip(*clip) for path, _, clip in rows}
    return Survey(total, clips, {Path(path): size for path, size, _ in rows}, failed)


def _look(args: argparse.Namespace, process: Process, clip_range: ClipRange, history: History) -> list[Any] | str:
    """Check the files. Returns [number of files, number of failed ones, [path, bytes, fields of its `Clip`] of the
    others], or a refusal."""
    try:
        files = find_inputs(args)
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        return sentence(error, args.video_path, "read") if not isinstance(error, ValueError) else str(error)
    for place in dict.fromkeys(
        [args.output_dir, *(place_of(path, args.video_path, args.output_dir) for path in files)]
    ):
        for folder in (place, place / COMPARE):
            if removed := remove_leftovers(folder):
                logger.info("%s: removed %d unfinished files of runs that were killed", folder, removed)
    rows, failed = [], sum(not good for good in history.done.values())
    process.alive("a first look at the files")
    for path, found in probe_all(path for path in files if str(path) not in history.done):
        process.alive(f"a first look at the files, done with {path.name}")
        try:
            if str(path) in history.at_fault:
                raise CrashError(f"{path.name}: {CRASHED.format(history.at_fault[str(path)])}")
            clip = check_file(path, found, args, process.attempt + history.attempt, clip_range)
            rows.append([str(path), size_in_bytes(path), astuple(clip)])
        except SkippedError as reason:
            logger.info("%s", reason, extra=outcome(path, "skipped"))
            history.finished(str(path), good=True)
        except Exception as error:
            report_error(error, path, "", "read")
            failed += 1
            history.finished(str(path), good=False)
    return [len(files), failed, rows]


def check_file(
    path: Path, found: Probe | MediaError, args: argparse.Namespace, attempt: int = 0, clip_range: ClipRange = WHOLE
) -> Clip:
    """Check a file. Returns the facts for planning.

    Args:
        found: the result of `probe_all` for this file.
        clip_range: the part of the clip to restore.
    Raises:
        SkippedError: the result exists, and existing results are skipped.
        ValueError: the file cannot be restored.
    """
    if isinstance(found, MediaError):
        raise found
    clip_range.check_begins_in(found, path)
    if args.preview is not None:  # a preview writes a sheet and no result
        return Clip(found.height, found.width, 1, still=True)
    place, options = place_of(path, args.video_path, args.output_dir), result_options_from_flags(args)
    output = place_of_result(path, place, found, options, clip_range)
    is_folder = found.kind != "image" and options.frames_out is not None
    refusal = refuse_output(path, output, args, attempt, is_folder=is_folder)
    if refusal == SKIP:
        raise SkippedError(f"{path.name}: skipped, {output} exists")
    if refusal is not None:
        raise ValueError(refusal)
    return clip_of(found, options.stored, clip_range)


def refuse_output(
    path: Path, output: Path, args: argparse.Namespace, attempt: int = 0, is_folder: bool = False
) -> str | None:
    """Why a file cannot be restored to this path; `SKIP` if an existing result is to be skipped; None if it can be.

    attempt: number of restarts of this job; after a restart, the job's own results are no obstacle.
    is_folder: whether the result is a folder of frames.
    """
    if output.resolve() == folder_of(path).resolve():
        return f"{path.name}: the result would replace the input {path}; choose another --output_dir"
    if is_folder and (why := why_not_replaced(output)):
        return f"{path.name}: {why}"
    if output.is_dir() and not is_folder:
        return f"{path.name}: {output} is a folder; rename it, or choose another --output_dir"
    if not output.exists():
        return None
    choice = existing_results(args, attempt)
    if choice == "refuse":
        return f"{path.name}: {output} exists; use --overwrite to replace it or --skip_existing to leave it"
    return SKIP if choice == "skip" else None


def existing_results(args: argparse.Namespace, attempt: int) -> Existing:
    """How the run treats existing results."""
    if args.overwrite:
        return "replace"
    return "skip" if args.skip_existing or attempt > 0 else "refuse"


def plan_files(
    settings: RunSettings, parallel: Parallel, clips: Mapping[Path, Clip]
) -> tuple[dict[Path, MemoryPlan], int]:
    """Plan all files, before weights are loaded. Returns the plans, and the number of files without one."""
    budget = read_budget(settings, parallel)
    plan_all = partial(_unplanned_all, settings) if budget is None else budget.plan_all
    plans, refused = _plan_possible(clips, plan_all)
    for path, line in refused.items():
        say(parallel.process, logging.ERROR, line, outcome(path, "failed"))
    if budget is None:
        return plans, len(refused)
    for plan in dict.fromkeys(plans.values()):
        names = [path.name for path in plans if plans[path] == plan]
        line = f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {plan.describe()}"
        say(parallel.process, logging.INFO if budget.is_hard_limit or plan.saves_memory else logging.DEBUG, line)
    return plans, len(refused)


Plans = tuple[dict[Path, MemoryPlan], dict[Path, str]]  # the plan of each file; an error message for files without one


def _unplanned_all(settings: RunSettings, clips: Mapping[Path, Clip]) -> Plans:
    sizes = {path: settings.geometry.network_size(clip.height, clip.width) for path, clip in clips.items()}
    return {path: unplanned(settings, *sizes[path], clip.still) for path, clip in clips.items()}, {}


def _plan_possible(clips: Mapping[Path, Clip], plan_all: Callable[[Mapping[Path, Clip]], Plans]) -> Plans:
    """Call `plan_all`. If it fails, plan without the files on which it fails."""
    try:
        return plan_all(clips)
    except Exception as error:
        logger.debug("planning failed; each file is planned by itself to find which", exc_info=error)
    good, bad = {}, {}
    for path, clip in clips.items():
        try:
            plan_all({path: clip})
            good[path] = clip
        except Exception as error:
            bad[path] = sentence(error, path, "planned")
    plans, refused = plan_all(good)
    return plans, bad | refused


def report_error(error: Exception, path: Path, prefix: str = "", verb: str = "restored") -> None:
    """Log the line of a failed file; with --verbose also the traceback."""
    logger.error("%s%s", prefix, sentence(error, path, verb), extra=outcome(path, "failed"))
    logger.debug("where it happened:", exc_info=error)


def say(speaker: Process | Parallel, level: int, message: str, about: dict[str, Any] | None = None) -> None:
    """Log a line on one rank only. `about`: see `run_page.lines.outcome`."""
    if speaker.is_leader:
        logger.log(level, "%s", message, extra=about)
