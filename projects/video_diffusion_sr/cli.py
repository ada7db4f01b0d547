"""The command line of the inference scripts: flags, the files of a folder one after the other, one line for each."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import TIMEOUT_S, Process, process_group
from common.logger import get_logger, set_up_logging
from data.media import MediaError, find_media, open_media, output_path
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.color_fix import KINDS
from projects.video_diffusion_sr.memory.budget import Clip, clip_of, read_budget
from projects.video_diffusion_sr.memory.plan import MemoryPlan, unplanned
from projects.video_diffusion_sr.output_size import add_size_flags, size_from_flags
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import DTYPES, ROOT, Finish, Request
from projects.video_diffusion_sr.restore import InputError, Restorer, restore_clip
from projects.video_diffusion_sr.settings import RunSettings, resolve

logger = get_logger(__name__)

SUCCESS, SOME_FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130
SKIP = "exists"


def parser(preset: Preset, command: str | None = None) -> argparse.ArgumentParser:
    """The flags of the reference, with their meaning, and what users expect beside them.

    command: what the user types to get here; None: the preset's script.
    """
    script = command or f"projects/inference_{preset.name.lower().replace('-', '_')}.py"
    start = script if command else f"python {script}"
    p = argparse.ArgumentParser(
        prog=script,
        description=f"Restore videos and pictures with {preset.name}.",
        epilog=f"example: {start} --video_path clips --output_dir restored --res_h {preset.res[0]} "
        f"--res_w {preset.res[1]}\nOn several GPUs put torchrun --nproc-per-node=N in front instead of python.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = p.add_argument_group("files (paths are relative to where you stand)")
    files.add_argument("--video_path", type=Path, required=True, help="a video or picture, or a folder of them")
    files.add_argument("--output_dir", type=Path, required=True, help="folder for the results; made if missing")
    exists = files.add_mutually_exclusive_group()
    exists.add_argument("--overwrite", action="store_true", help="replace results that exist")
    exists.add_argument(
        "--skip_existing", action="store_true", help="leave results that exist and go on; resumes a run"
    )
    files.add_argument(
        "--ckpt_dir", type=Path, default=ROOT / "ckpts", help="folder of weights and prompt embeddings (default: ckpts)"
    )
    files.add_argument("--checkpoint", type=Path, metavar="FILE", help="the transformer's weights, wherever they lie")
    files.add_argument("--vae_checkpoint", type=Path, metavar="FILE", help="the VAE's weights, wherever they lie")

    result = p.add_argument_group("result")
    result.add_argument("--res_h", type=int, default=preset.res[0], help="height of the wanted area (%(default)s)")
    result.add_argument(
        "--res_w", type=int, default=preset.res[1], help="its width (%(default)s); the aspect ratio stays the file's"
    )
    add_size_flags(result)
    result.add_argument("--seed", type=int, default=666, help="same seed, same file: same result (%(default)s)")
    result.add_argument(
        "--color_fix",
        choices=KINDS,
        default="wavelet",
        help="colours of the input (%(default)s)",
    )
    result.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="1: the restored clip; less mixes in the input against over-sharpening",
    )
    result.add_argument(
        "--out_fps", type=_rate, help="play at this rate, such as 24 or 30000/1001; default: as the file"
    )
    result.add_argument(
        "--crf", type=float, help="H.264 quality, lower is better and larger; default: visually lossless"
    )
    result.add_argument("--fit", choices=["pad", "crop"], default="pad", help="pad: exact size; crop: as the reference")
    result.add_argument(
        "--deinterlace", choices=["auto", "always", "never"], default="auto", help="old tape; auto: where it is marked"
    )
    result.add_argument("--compare", action="store_true", help="also write a side-by-side clip and a contact sheet")

    run = p.add_argument_group("how it runs")
    run.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu (%(default)s)")
    run.add_argument(
        "--dtype", choices=sorted(DTYPES), help="of the networks; default: bfloat16 on CUDA, float32 on CPU"
    )
    run.add_argument("--sp_size", type=int, default=1, help="GPUs that share one clip (%(default)s)")
    run.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS",
        help="a process of a job that is silent for so long ends it (%(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--shard_weights", action="store_true", help="spread the transformer's weights over the GPUs of --sp_size"
    )
    run.add_argument(
        "--window", type=int, metavar="FRAMES",
        help=f"longer clips go through the transformer in overlapping windows of this many frames; 0: never "
        f"({preset.window_frames})",
    )  # fmt: skip
    run.add_argument(
        "--vram", type=float, metavar="GIB",
        help="GPU memory to stay within: what PyTorch's allocator takes, to which the driver adds some 0.5 GiB. "
        "Slices, tiles, chunks and offload are chosen to fit, and printed with the predicted peak; too little is "
        "refused with what would do. default: what is free, and all stays on the GPU if it fits. No effect on a CPU",
    )  # fmt: skip
    run.add_argument(
        "--weights_8_bit", action="store_true",
        help="keep the transformer's weights as 8-bit floats: half of their memory, a slightly different result",
    )  # fmt: skip
    if preset.multi_step:
        run.add_argument("--cfg_scale", type=float, default=preset.cfg_scale, help="guidance, 1 is none (%(default)s)")
        run.add_argument("--sample_steps", type=int, default=preset.steps, help="network calls (%(default)s)")
    run.add_argument("--lora", type=Path, help="LoRA weights (.safetensors) to merge into the transformer")
    run.add_argument("--lora_scale", type=float, default=1.0, help="how strongly (%(default)s)")
    run.add_argument("--config", help=f"another YAML than {preset.config}")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change YAML keys, for ablations")
    run.add_argument("--verbose", action="store_true", help="say which backends are used")
    return p


def main(preset: Preset, arguments: Sequence[str] | None = None, command: str | None = None) -> int:
    """Run the program; returns the exit code: 0, 1 when a file failed, 2 for a bad request, 130 when interrupted."""
    args = parser(preset, command).parse_args(arguments)
    set_up_logging(args.verbose)
    try:
        return run(preset, args)
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        logger.debug("where it happened:", exc_info=error)
        return BAD_REQUEST
    except KeyboardInterrupt:
        logger.error("interrupted: finished files are kept, the unfinished one left nothing; --skip_existing goes on")
        return INTERRUPTED


def run(preset: Preset, args: argparse.Namespace) -> int:
    """All files of one request."""
    request = read_request(args)
    files, skipped = find_media(args.video_path)
    with process_group(request.device, timeout_s=args.timeout) as process:
        for path, reason in skipped:
            _say(process, logging.INFO, f"{path}: skipped, {reason}")
        parallel = Parallel(process, args.sp_size)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        todo, failed = choose_files(files, args, process)
        settings = resolve(preset, request, process.device)
        plans, refused = plan_files(settings, parallel, todo)
        failed, todo = failed + refused, list(plans)
        if todo:
            restorer = load(settings, parallel, list(plans.values()))
            sizes = {path: path.stat().st_size for path in todo}
            journal = args.output_dir if process.world > 1 else None  # a lone process has nobody to be restarted by
            handed_out = parallel.files(todo, cost=sizes.__getitem__, journal=journal)
            for path in handed_out:
                prefix = f"[{todo.index(path) + 1}/{len(todo)}] "
                failed += not restore_one(path, args.output_dir, restorer, prefix, plans[path])
    if failed:
        logger.error("%d of %d files failed; see above", failed, len(files))
    return SOME_FAILED if failed else SUCCESS


def read_request(args: argparse.Namespace) -> Request:
    """The flags as a typed request; sentences for numbers that make no sense."""
    if min(args.res_h, args.res_w) < 16:
        raise ValueError(f"--res_h {args.res_h} --res_w {args.res_w}: the result must be at least 16x16 pixels")
    if not 0 <= args.strength <= 1:
        raise ValueError(f"--strength {args.strength} must lie between 0 (the input) and 1 (the restored clip)")
    if args.timeout <= 0:
        raise ValueError(f"--timeout {args.timeout} must be a positive number of seconds")
    if args.crf is not None and not 0 <= args.crf <= 51:
        raise ValueError(f"--crf {args.crf} must lie between 0 (lossless) and 51")
    if args.vram is not None and not args.vram > 0:
        raise ValueError(f"--vram {args.vram:g} must be a positive number of GiB")
    if args.window is not None and args.window < 0:
        raise ValueError(f"--window {args.window} must be a number of frames, or 0 for whole clips")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ValueError(f"--output_dir {args.output_dir} is a file; name a folder")
    return Request(
        res=(args.res_h, args.res_w),
        size=size_from_flags(args),
        seed=args.seed,
        device=args.device,
        dtype=args.dtype,
        fit=args.fit,
        steps=getattr(args, "sample_steps", None),
        cfg_scale=getattr(args, "cfg_scale", None),
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
        deinterlace=args.deinterlace,
        finish=Finish(args.color_fix, args.strength, args.out_fps, args.crf, args.compare),
    )


def plan_files(
    settings: RunSettings, parallel: Parallel, clips: Mapping[Path, Clip]
) -> tuple[dict[Path, MemoryPlan], int]:
    """(how each file is run, how many do not fit), before weights are loaded."""
    budget = read_budget(settings, parallel) if clips else None
    if budget is None:
        sizes = {path: settings.geometry.network_size(clip.height, clip.width) for path, clip in clips.items()}
        return {path: unplanned(settings, *sizes[path], clip.still) for path, clip in clips.items()}, 0
    plans, refused = budget.plan_all(clips)
    for sentence in refused.values():
        _say(parallel.process, logging.ERROR, sentence)
    for plan in dict.fromkeys(plans.values()):
        names = [path.name for path in plans if plans[path] == plan]
        line = f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {plan.describe()}"
        _say(parallel.process, logging.INFO if budget.firm or plan.saves_memory else logging.DEBUG, line)
    return plans, len(refused)


def choose_files(files: Sequence[Path], args: argparse.Namespace, process: Process) -> tuple[dict[Path, Clip], int]:
    """(files to restore, how many cannot be): nothing that exists is touched unless the user says so.

    The same on every rank: nobody begins to write before all have looked.
    """
    todo, failed = {}, 0
    for path in files:
        try:
            with open_media(path) as reader:
                output = output_path(path, args.output_dir, reader.info)
                clip = clip_of(reader.info)
        except MediaError as error:
            refusal = str(error)
        else:
            refusal = refuse_output(path, output, args, process.attempt)
        if refusal == SKIP:
            _say(process, logging.INFO, f"{path.name}: skipped, {output} exists")
        elif refusal is not None:
            _say(process, logging.ERROR, refusal)
            failed += 1
        else:
            todo[path] = clip
    process.barrier()
    return todo, failed


def refuse_output(path: Path, output: Path, args: argparse.Namespace, attempt: int = 0) -> str | None:
    """Why a file cannot be restored to this place; `SKIP` when it was already; None when it can.

    attempt: after a restart of this job, what it has already written is no obstacle.
    """
    if output.resolve() == path.resolve():
        return f"{path}: the result would replace the input; choose another --output_dir"
    if not output.exists() or args.overwrite:
        return None
    if args.skip_existing or attempt > 0:
        return SKIP
    return f"{path.name}: {output} exists; use --overwrite to replace it or --skip_existing to leave it"


def restore_one(
    path: Path, output_dir: Path, restorer: Restorer, prefix: str = "", plan: MemoryPlan | None = None
) -> bool:
    """Restore one file and say so in a line; False, and a line with the reason, when it cannot be done.

    Where ranks share a clip, only what all of them see alike is caught: after anything else they would wait for each
    other, so it ends the job, and torchrun may start it again.
    """
    alone = restorer.parallel.size == 1
    try:
        report = restore_clip(path, output_dir, restorer, show_progress=sys.stderr.isatty(), plan=plan)
    except InputError as error:
        _say(restorer.parallel, logging.ERROR, f"{prefix}{error}")
        return False
    except (ValueError, OSError, RuntimeError) as error:  # MediaError is a ValueError
        if not alone:
            raise
        if isinstance(error, torch.OutOfMemoryError):
            error = f"{path.name}: out of device memory; try a smaller --vram, --res_h and --res_w, or --window"
        logger.error("%s%s", prefix, error)
        logger.debug("where it happened:", exc_info=error)
        return False
    if report is not None:
        logger.info("%s%s", prefix, report.line())
        if report.damage:
            logger.warning("%s%s", prefix, report.damage)
    return True


def _say(speaker: Process | Parallel, level: int, message: str) -> None:
    """One line from one rank, not the same from all."""
    if speaker.leads:
        logger.log(level, "%s", message)


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame rate such as 25 or 30000/1001") from error
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"a frame rate of {text} is not possible")
    return rate
