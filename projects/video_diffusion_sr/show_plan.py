"""`--plan`: prints the sizes, windows, memory and seconds of each file that a run would need. It reads no weights."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.logger import get_logger
from common.standard_output import write_output
from data.media import MediaError, probe_all
from data.video.framing import pixel_frames
from projects.video_diffusion_sr.file_errors import sentence
from projects.video_diffusion_sr.find_inputs import find_inputs
from projects.video_diffusion_sr.memory.budget import FREE_SHARE, Budget, Clip, clip_of, make_budget
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS
from projects.video_diffusion_sr.throughput import BY_MODEL, MEASURED_ON

logger = get_logger(__name__)


def show_plan(preset: Preset, request: Request, args: argparse.Namespace) -> int:
    """Print a paragraph for each file of `--video_path`.

    Returns:
        The number of files that cannot be restored; a log line gives the reason for each.
    Raises:
        ValueError, OSError, RuntimeError: the request is invalid, or standard output cannot be written.
    """
    files = find_inputs(args)
    bound = memory_bound(request)
    # The plan is that of a GPU, even if there is none, so the networks have the config's dtype.
    planned = replace(
        request, dtype=request.dtype or "bfloat16", random_weights=True, checkpoint=None, vae_checkpoint=None
    )
    alone = Parallel(Process(0, 1, 0, torch.device("cpu"), None, 0, args.timeout))
    budget = make_budget(resolve(preset, planned, torch.device("cuda")), alone, bound or float("inf"))
    budget = replace(budget, networks=replace(budget.networks, ranks=args.sp_size))
    failed, seen = 0, dict(probe_all(files))
    good = {path: found for path, found in seen.items() if not isinstance(found, MediaError)}
    stored = request.result_options.stored
    clips = budget.with_repeated({path: clip_of(found, stored, request.clip_range) for path, found in good.items()})
    for path, found in seen.items():
        try:
            if isinstance(found, MediaError):
                raise found
            request.clip_range.check_begins_in(found, path)
            if not write_output(describe(path, clips[path], budget, bound) + "\n"):
                break
        except ValueError as error:
            failed += 1
            named = str(error).startswith(path.name) or isinstance(error, MediaError)
            logger.error("%s", sentence(error, path, "planned") if named else f"{path.name}: {error}")
    return failed


def memory_bound(request: Request) -> float | None:
    """The memory that the run may take, in GiB: --vram, or the free memory of a GPU; None if neither is known."""
    if request.vram is not None:
        return request.vram
    return FREE_SHARE * torch.cuda.mem_get_info()[0] / GIB if torch.cuda.is_available() else None


def describe(path: Path, clip: Clip, budget: Budget, bound: float | None) -> str:
    """Describe the sizes, windows, memory and seconds of one file.

    Raises:
        ValueError: no plan fits the bound.
    """
    work, plan = budget.work(clip), budget.plan(clip)
    height, width = budget.settings.geometry.output_size(clip.height, clip.width)
    frames = "an unknown number of frames" if clip.frames is None else f"{clip.frames} frame{'s' * (clip.frames != 1)}"
    within = "with unbounded memory" if bound is None else f"within {bound:.1f} GiB"
    return (
        f"{path}: {frames}, {clip.width}x{clip.height} -> {width}x{height} "
        f"(networks see {work.width}x{work.height})\n"
        f"  transformer: {windows(clip.frames, budget)}\n"
        f"  memory {within}: {plan.describe()}\n"
        f"  time: {seconds(clip, work.pixels, budget, plan)}"
    )


def windows(frames: int | None, budget: Budget) -> str:
    """Describe the windows in which a clip passes through the transformer."""
    window = window_frames(budget)
    if window is None:
        return "the whole clip at once"
    if frames is None:
        return f"windows of {window} frames"
    count = window_count(frames, budget)
    return "the whole clip at once" if count == 1 else f"{count} windows of {window} frames"


def window_frames(budget: Budget) -> int | None:
    """The number of frames in a window; None: the whole clip."""
    window = budget.settings.window
    return None if window is None else pixel_frames(window, budget.networks.vae.temporal_factor)


def window_count(frames: int, budget: Budget) -> int:
    """The number of windows of a clip with this many frames."""
    window, factor = window_frames(budget), budget.networks.vae.temporal_factor
    return 1 if window is None or frames <= window else 1 + -(-(frames - window) // (window - SHARED_LATENTS * factor))


def seconds(clip: Clip, pixels: int, budget: Budget, plan: MemoryPlan) -> str:
    """Describe the predicted time of the networks, as far as measurements allow it.

    Args:
        pixels: number of pixels of a frame in the networks.
    """
    settings, known = budget.settings, BY_MODEL.get(budget.settings.preset.name)
    if known is None or settings.dtype != torch.bfloat16:
        return f"unknown, {settings.preset.name} was not measured in {str(settings.dtype).removeprefix('torch.')}"
    if clip.frames is None:
        return "unknown, as the file does not say how long it is"
    if budget.networks.ranks > 1:
        return "unknown, several GPUs were measured at a few sizes only, see docs/performance.md"
    shared = (window_count(clip.frames, budget) - 1) * SHARED_LATENTS * budget.networks.vae.temporal_factor
    calls = settings.sampling.steps * settings.texts
    about = known.seconds(pixels, clip.frames, clip.frames + shared, calls)
    more = ", and more as networks travel" if plan.offload != "none" else ""
    named = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    here = "" if named and MEASURED_ON in named else f"; unknown on {named}" if named else "; there is no GPU here"
    number = f"{about:.2g}" if about < 10 else f"{about:.0f}"
    return f"about {number} s in the networks on an {MEASURED_ON}{more}, without start, reading and writing{here}"
