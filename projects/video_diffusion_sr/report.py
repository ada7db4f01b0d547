"""The report of one file: its result, and the time and memory that it took."""

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
    """Seconds that the threads of one file waited for each other; without overlap, the duration of the other's work.

    reader: the computing thread waited for frames of the input.
    writer: the computing thread waited for room in the writer's queue.
    frames: the writer waited for finished frames, which includes the device's work.
    end: from the last computed frame until the result has its name; another file may be computed in this time.
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
    """The report of one restored file.

    source, output: paths of the input and of the result.
    frames: number of frames of the result.
    size: (height, width) of the result.
    seconds: time from the start of computing until the result has its name.
    peak_memory: peak in bytes of this file's tensors on a CUDA device, or of the whole process so far on a CPU; 0 if
        unknown.
    reserved: the largest number of bytes that the CUDA allocator held, with gaps and cache; 0 on other devices.
    predicted_gib: the plan's prediction of `peak_memory` in GiB; None: there is none.
    damage: a message on frames of the input that could not be decoded.
    kept: number of frames of the result that an earlier run had made.
    samples: stills and curves for the page of `--report`; None: there is no page.
    waits: seconds that threads waited for each other.
    stages: seconds of the device in each stage of the networks, by name.
    ended: time at which the result had its name, by `time.perf_counter`.
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
    """Start a new measurement of the memory peak of a CUDA device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class PeakMemory(NamedTuple):
    """The memory fields of a `Report`."""

    peak_memory: int
    reserved: int = 0
    predicted_gib: float | None = None


def peak(device: torch.device, plan: MemoryPlan, held: int = 0) -> PeakMemory:
    """The memory peak of a file.

    Args:
        plan: the plan of the file, for its prediction.
        held: bytes in use on a CUDA device that PyTorch does not count as allocated.
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
