"""The program of the inference scripts: reads a request, builds the networks and restores the files in order."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from common.crashes import History
from common.distributed.failures import RefusedRequest
from common.distributed.job import is_speaker, mark_ended, restarts_left
from common.distributed.parallel import Parallel
from common.distributed.process import LauncherError, Process, process_group
from common.distributed.refusal import tell_refusal
from common.distributed.timeout import LONGEST_TIMEOUT_S
from common.kernels.first_use import first_use
from common.kernels.repeatable import repeatable
from common.logger import get_logger, set_up_logging
from common.signals import exit_code, interrupted_by_signals
from data.media import ClipRange
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.cli_parser import parse_flags
from projects.video_diffusion_sr.dry_run import kernels_for
from projects.video_diffusion_sr.output_form import result_options_from_flags
from projects.video_diffusion_sr.output_size import size_from_flags
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.preview import preview_all
from projects.video_diffusion_sr.record import recorder
from projects.video_diffusion_sr.request import DTYPES, Request
from projects.video_diffusion_sr.resume import run_identity
from projects.video_diffusion_sr.run_files import existing_results, plan_files, survey
from projects.video_diffusion_sr.run_order import Job, restore_all
from projects.video_diffusion_sr.run_page.page import page_of, target_of
from projects.video_diffusion_sr.scene_cuts import AUTO, OFF, SceneCuts
from projects.video_diffusion_sr.settings import resolve
from projects.video_diffusion_sr.show_plan import show_plan

logger = get_logger(__name__)

SUCCESS, SOME_FAILED, BAD_REQUEST = 0, 1, 2
INTERRUPTED = "%s: finished files are kept, and of a long one what is finished; --skip_existing goes on"


def main(
    preset: Preset,
    arguments: Sequence[str] | None = None,
    command: str | None = None,
    history: History | None = None,
) -> int:
    """Run the program.

    Args:
        arguments: the command line without the program's name; None: that of the process.
        command: the command that the user typed, for messages; None: the preset's script.
        history: which files were processed before a crash, if the program was started again after one.
    Returns:
        The exit code: 0 if all files are restored, 1 if a file failed, 2 for a bad request, and 130, 143 or 129 after
        Ctrl-C, SIGTERM or SIGHUP.
    """
    args = parse_flags(preset, arguments, command)
    set_up_logging(args.verbose)
    try:
        with interrupted_by_signals():
            return run(preset, args, history or History())
    except RefusedRequest as error:  # already logged
        if restarts_left() and args.output_dir.is_dir():
            mark_ended(args.output_dir)
        logger.debug("where it happened:", exc_info=error)
        tell_refusal(str(error), lambda _: None)
        return BAD_REQUEST
    except (ValueError, OSError, RuntimeError) as error:
        if is_speaker() or isinstance(error, LauncherError):
            logger.error("%s", error)
        if not isinstance(error, RuntimeError):  # those of a process are recorded with their traceback
            tell_refusal(str(error), lambda _: None)
        logger.debug("where it happened:", exc_info=error)
        return BAD_REQUEST
    except KeyboardInterrupt as error:
        if is_speaker():
            logger.error(INTERRUPTED, str(error) or "interrupted")
        return exit_code(error)


def run(preset: Preset, args: argparse.Namespace, history: History) -> int:
    """Restore all files of one request. Returns the exit code."""
    request = read_request(args)
    if args.plan:
        return SOME_FAILED if is_speaker() and show_plan(preset, request, args) else SUCCESS
    with process_group(request.device, timeout_s=args.timeout) as process, repeatable():
        try:
            failed, total = run_files(preset, request, args, process, history)
        except (ValueError, OSError) as error:
            raise RefusedRequest(str(error)) from error
        if failed and restarts_left():
            mark_ended(args.output_dir)
    if failed and is_speaker():
        logger.error("%d of %d files failed; see above", failed, total)
    return SOME_FAILED if failed else SUCCESS


def run_files(
    preset: Preset, request: Request, args: argparse.Namespace, process: Process, history: History
) -> tuple[int, int]:
    """Restore all files. Returns (failed files, files) as numbers; the first rank counts the failures of all ranks."""
    with page_of(preset, args, process) as page:
        failed, total, work = prepare(preset, request, args, process, history)
        if work is not None:
            paths, job, several = work
            if args.preview is not None:
                done = preview_all(paths, job, args.preview)
            else:
                job = page.attach(job)
                done = chain(restore_all(paths, job, several), restore_all(job.alone, job, several_in_flight=False))
            failed_here = sum(not restored for restored in done)
            told = process.gather_on_leader(failed_here if job.restorer.parallel.is_leader else 0, "failed files")
            failed += failed_here if told is None else sum(told)
    return failed, total


def prepare(
    preset: Preset, request: Request, args: argparse.Namespace, process: Process, history: History
) -> tuple[int, int, tuple[Iterable[Path], Job, bool] | None]:
    """Do everything that comes before the first file is restored: check and plan the files, and build the networks.

    Returns:
        (number of files that have failed, number of files, arguments of `restore_all` for the others); None in place of
        the arguments if no file is left.
    """
    parallel = Parallel(process, args.sp_size)
    seen = survey(args, process, request.clip_range, history)
    if seen.refusal is not None:
        raise RefusedRequest(seen.refusal)
    if not seen.clips:
        return seen.failed, seen.total, None
    with first_use(process.device, DTYPES[args.dtype or "bfloat16"]):
        settings = resolve(preset, request, process.device)
        plans, refused = plan_files(settings, parallel, seen.clips)
        with kernels_for(settings, parallel, [(seen.clips[path], plan) for path, plan in plans.items()]):
            restorer = load(settings, parallel, list(plans.values())) if plans else None
    for path in seen.clips.keys() - plans.keys():
        history.finished(str(path), good=False)
    alone = tuple(path for path in plans if str(path) in history.suspects)
    failed, todo = seen.failed + refused, [path for path in plans if path not in alone]
    if restorer is None:
        return failed, seen.total, None
    if parallel.is_leader and not args.no_record and args.preview is None:
        restorer = replace(restorer, recorder=recorder(settings))
    if request.resume and args.preview is None:
        restorer = replace(restorer, identity=run_identity(settings))
    existing = existing_results(args, process.attempt + history.attempt)
    journal = args.output_dir if restarts_left() or process.attempt else None
    paths = parallel.files(todo, cost=seen.sizes.__getitem__, journal=journal)
    job = Job(args.output_dir, restorer, plans, existing, root=args.video_path, history=history, alone=alone)
    return failed, seen.total, (paths, job, journal is None)


def clip_range_from_flags(args: argparse.Namespace) -> ClipRange:
    """The part of each clip that the flags request; ValueError if two flags contradict each other."""
    first, count = args.frames or (0, None)
    if first and args.start:
        raise ValueError("--start and the first number of --frames both say where to begin: leave one of them out")
    if count is not None and args.end is not None:
        raise ValueError("--end and the number of --frames both say where to end: leave one of them out")
    if args.end is not None and args.end <= (args.start or 0):
        raise ValueError("--end is not behind --start: no frame lies between them")
    return ClipRange(args.start or None, args.end, first, count)


def refuse_invalid(args: argparse.Namespace) -> None:
    """Raise ValueError for a flag whose value is impossible, and for flags that exclude each other."""
    if min(args.res_h, args.res_w) < 16:
        raise ValueError(f"--res_h {args.res_h} --res_w {args.res_w}: the result must be at least 16x16 pixels")
    if not 0 <= args.strength <= 1:
        raise ValueError(f"--strength {args.strength} must lie between 0 (the input) and 1 (the restored clip)")
    if not 1 <= args.timeout <= LONGEST_TIMEOUT_S:
        raise ValueError(f"--timeout {args.timeout:g} must lie between 1 and {LONGEST_TIMEOUT_S} seconds (a year)")
    if args.vram is not None and not args.vram > 0:
        raise ValueError(f"--vram {args.vram:g} must be a positive number of GiB")
    if args.window is not None and args.window < 0:
        raise ValueError(f"--window {args.window} must be a number of frames, or 0 for whole clips")
    if args.preview is not None and args.preview < 1:
        raise ValueError(f"--preview {args.preview} must be a number of frames, at least 1")
    if args.preview is not None and args.report is not None:
        raise ValueError("--preview makes no results for --report to show: leave one of them out")
    if args.preview is not None and args.compare:
        raise ValueError("--preview shows input and result side by side by itself: leave --compare out")
    if args.scene_cuts not in (AUTO, OFF) and not Path(args.scene_cuts).exists():
        raise ValueError(f"--scene_cuts {args.scene_cuts}: there is no such file; give a list, auto or off")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ValueError(f"--output_dir {args.output_dir} is a file; name a folder")
    if args.report is not None:
        target_of(args)


def read_request(args: argparse.Namespace) -> Request:
    """Convert the flags to a typed request; ValueError for invalid numbers."""
    refuse_invalid(args)
    return Request(
        res=(args.res_h, args.res_w),
        size=size_from_flags(args),
        seed=args.seed,
        device=args.device,
        dtype=args.dtype,
        fit=args.fit,
        steps=args.sample_steps,
        cfg_scale=args.cfg_scale,
        window_frames=args.window,
        ckpt_dir=args.ckpt_dir,
        checkpoint=args.checkpoint,
        vae_checkpoint=args.vae_checkpoint,
        config=args.config,
        overrides=tuple(args.set),
        lora=args.lora,
        lora_scale=args.lora_scale,
        shard_weights=args.shard_weights,
        vram=args.vram,
        weights_8_bit=args.weights_8_bit,
        random_weights=args.random_weights,
        deinterlace=args.deinterlace,
        clip_range=clip_range_from_flags(args),
        cuts=SceneCuts(args.scene_cuts, args.write_scene_cuts),
        overlap=not args.no_overlap,
        resume=not args.no_resume,
        result_options=result_options_from_flags(args),
    )
