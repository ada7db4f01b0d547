"""Writes a profiler trace of a few steps of a run, for chrome://tracing or Perfetto."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from projects.video_diffusion_sr.training.settings import ProfileSettings


def profiled(settings: ProfileSettings, folder: Path, rank: int) -> AbstractContextManager[Any]:
    """A context that yields a profiler, whose `step()` ends a step; it yields None if no trace is requested."""
    if settings.steps < 1:
        return nullcontext()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def write(profiler: torch.profiler.profile) -> None:
        (folder / "profile").mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / "profile" / f"rank_{rank:03d}.json"))

    warmup = min(1, settings.start)
    schedule = torch.profiler.schedule(wait=settings.start - warmup, warmup=warmup, active=settings.steps, repeat=1)
    return torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write, profile_memory=True)
