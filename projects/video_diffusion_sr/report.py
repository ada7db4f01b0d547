"""The report of one file: what was done, in which time and memory."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.run_page.samples import Sampled


@dataclass(frozen=True)
class Waits:
    """Seconds that the threads of one file waited for each other; without overlap, that the other's work took.

    reader: the computing thread, for frames of the input. writer: the computing thread, for room behind it.
    frames: the writer, for finished frames, the device's work included.
    end: from the last frame computed until the result has its name; the next file computes meanwhile, if there is one.
    """

    reader: float
    writer: float
    frames: float
    end: float

    def line(self) -> str:
        return (
            f"computing waited {self.reader:.2f} s for the reader and {self.writer:.2f} s for the writer, which waited "
            f"{self.frames:.2f} s for frames and was done {self.end:.2f} s after the last one was computed"
        )


@dataclass(frozen=True)
class Report:
    """What was done with one file.

    peak_memory: bytes. Of this file's tensors on a CUDA device, of the whole process so far on a CPU, 0 where unknown.
    reserved: bytes that the CUDA allocator held for them at most, gaps and cache included; 0 elsewhere.
    predicted_gib: the plan's prediction of `peak_memory`; None without a prediction.
    damage: frames of the input that were lost before we saw them.
    kept: frames of these that an earlier run had made.
    samples: what the page of `--report` shows of it; None: there is no page.
    waits: where its seconds went. stages: the device's seconds in each stage of the networks, by name.
    ended: of `time.perf_counter`, when the result had its name.
    """

    source: Path
    output: Path
    frames: int
    size: tuple[int, int]  # height, width
    seconds: float
    peak_memory: int
    damage: str | None = None
    reserved: int = 0
    predicted_gib: float | None = None
    waits: Waits | None = None
    ended: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    kept: int = 0
    samples: Sampled | None = None

    def line(self) -> str:
        speed = (self.frames - self.kept) / max(self.seconds, 1e-9)
        height, width = self.size
        memory = f"peak {self.peak_memory / GIB:.2f} GiB"
        if self.predicted_gib is not None:
            memory += f", {self.predicted_gib:.2f} predicted, {self.reserved / GIB:.2f} reserved"
        return (
            f"{self.source.name} -> {self.output}: {self.frames} frame{'s' * (self.frames != 1)} of {width}x{height}"
            f"{f', {self.kept} of them earlier,' if self.kept else ''} in {self.seconds:.1f} s "
            f"({speed:.2f} fps, {memory})"
        )


def reset_peak(device: torch.device) -> None:
    """Measure the peak of a CUDA device from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class PeakMemory(NamedTuple):
    """The memory fields of a `Report`."""

    peak_memory: int
    reserved: int = 0
    predicted_gib: float | None = None


def peak(device: torch.device, plan: MemoryPlan, held: int = 0) -> PeakMemory:
    """What this file took.

    Args:
        held: bytes of a CUDA device that are in use besides what PyTorch counts as allocated.
    """
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return PeakMemory(allocated + held, reserved, plan.predicted_peak_gib or None)
    try:
        import resource  # not on Windows
    except ModuleNotFoundError:
        return PeakMemory(0)
    unit = 1 if sys.platform == "darwin" else 1024
    return PeakMemory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
