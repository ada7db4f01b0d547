"""What a run would do: sizes, windows and memory of each file, before any weights are read."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.logger import get_logger, set_up_logging
from data.media import MediaError, open_media
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.find_inputs import find_inputs
from projects.video_diffusion_sr.long_clips import SHARED_LATENTS
from projects.video_diffusion_sr.memory.budget import FREE_SHARE, Budget, clip_of, make_budget
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve

logger = get_logger(__name__)


def main(preset: Preset, arguments: Sequence[str]) -> int:
    """One paragraph for each file of `--video_path`; 1 when one cannot be run, 2 for a bad request."""
    output = [] if any(word.startswith("--output_dir") for word in arguments) else ["--output_dir", "."]
    args = parser(preset, "seedvr plan").parse_args([*arguments, *output])
    set_up_logging(args.verbose)
    try:
        request = cli.read_request(args)
        files = find_inputs(args)
        bound = memory_bound(request)
        # A plan is for a GPU, also where there is none: its networks would be in the config's dtype.
        planned = replace(
            request, dtype=request.dtype or "bfloat16", random_weights=True, checkpoint=None, vae_checkpoint=None
        )
        with process_group("cpu") as process:
            settings = resolve(preset, planned, torch.device("cuda"))
            budget = make_budget(settings, Parallel(process), bound or float("inf"))
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return cli.BAD_REQUEST
    failed = 0
    for path in files:
        try:
            sys.stdout.write(describe(path, budget, bound) + "\n")
        except ValueError as error:  # MediaError is one
            failed += 1
            logger.error("%s", error if isinstance(error, MediaError) else f"{path.name}: {error}")
    return cli.SOME_FAILED if failed else cli.SUCCESS


def memory_bound(request: Request) -> float | None:
    """GiB that the run may take: --vram, or what a GPU has free; None where neither is known."""
    if request.vram is not None:
        return request.vram
    return FREE_SHARE * torch.cuda.mem_get_info()[0] / GIB if torch.cuda.is_available() else None


def describe(path: Path, budget: Budget, bound: float | None) -> str:
    """Sizes, windows and memory for one file.

    Raises:
        MediaError: it cannot be read. ValueError: it does not fit the bound.
    """
    with open_media(path) as reader:
        info = reader.info
    stretch = budget.settings.request.stretch
    stretch.check_begins_in(info, path)
    clip = clip_of(info, stretch)
    work = budget.work(clip)
    height, width = budget.settings.geometry.output_size(info.height, info.width)
    frames = "an unknown number of" if clip.frames is None else str(clip.frames)
    within = "with unbounded memory" if bound is None else f"within {bound:.1f} GiB"
    return (
        f"{path}: {frames} frames, {info.width}x{info.height} -> {width}x{height} "
        f"(networks see {work.width}x{work.height})\n"
        f"  transformer: {windows(clip.frames, budget)}\n"
        f"  memory {within}: {budget.plan(clip).describe()}"
    )


def windows(frames: int | None, budget: Budget) -> str:
    """How a clip goes through the transformer."""
    if budget.settings.window is None:
        return "the whole clip at once"
    factor = budget.networks.vae.temporal_factor
    window = 1 + (budget.settings.window - 1) * factor
    if frames is None:
        return f"windows of {window} frames"
    if frames <= window:
        return "the whole clip at once"
    return f"{1 + -(-(frames - window) // (window - SHARED_LATENTS * factor))} windows of {window} frames"
