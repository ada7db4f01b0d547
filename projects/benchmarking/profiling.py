"""Profiles stages: the time of each kernel, and the gaps in which the device was idle."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from projects.benchmarking.timing import synchronise

NAME_WIDTH = 60


class Span(NamedTuple):
    """One operation of the device, a kernel or a copy.

    start, stop: times in microseconds of the profiler's clock.
    name: its name.
    """

    start: float
    stop: float
    name: str


class Idle(NamedTuple):
    """How the time between the device's first and last operation was used.

    busy, idle: microseconds.
    gaps: (the two operations around the gap, number of such gaps, total microseconds), longest total first.
    """

    busy: float
    idle: float
    gaps: list[tuple[str, int, float]]


def profile(stages: Mapping[str, Callable[[], object]], device: torch.device) -> str:
    """Run each stage under the profiler: a table of operations by time and, on a GPU, one of idle gaps, as text."""
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    tables = []
    for name, run in stages.items():
        with torch.profiler.profile(activities=kinds) as trace:
            run()
            synchronise(device)
        table = trace.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=90)
        tables.append(f"== {name}\n{table}")
        if on_gpu:
            tables.append(idle_table(idle_times(spans_of(trace))))
    return "\n".join(tables)


def busy_share(run: Callable[[], object], device: torch.device) -> float:
    """Fraction of the time between the GPU's first and last operation in which it worked, during one call of `run`.

    Only the device is traced, because tracing the host would slow down the thread that launches the work.
    """
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
        synchronise(device)
    times = idle_times(spans_of(trace))
    return times.busy / max(times.busy + times.idle, 1e-9)


def spans_of(trace: torch.profiler.profile) -> Iterable[Span]:
    """The operations of the device in a trace."""
    return (Span(e.time_range.start, e.time_range.end, e.name) for e in trace.events() if on_device(e))


def on_device(event: torch.autograd.profiler_util.FunctionEvent) -> bool:
    """Whether an event is an operation of the GPU, and not a range that the host annotated."""
    return event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)


def idle_times(spans: Iterable[Span]) -> Idle:
    """Compute busy time and gaps; time in which several operations run counts once."""
    times: defaultdict[str, int] = defaultdict(int)
    lengths: defaultdict[str, float] = defaultdict(float)
    busy, idle, last = 0.0, 0.0, None
    for span in sorted(spans):
        if last is None or span.start >= last.stop:
            if last is not None and span.start > last.stop:
                between = f"{last.name[:NAME_WIDTH]} -> {span.name[:NAME_WIDTH]}"
                times[between] += 1
                lengths[between] += span.start - last.stop
                idle += span.start - last.stop
            busy += span.stop - span.start
        else:
            busy += max(0.0, span.stop - last.stop)
        last = span if last is None or span.stop > last.stop else last
    costliest = sorted(((name, times[name], length) for name, length in lengths.items()), key=lambda gap: -gap[2])
    return Idle(busy, idle, costliest)


def idle_table(times: Idle, rows: int = 15) -> str:
    """Format busy and idle time and the `rows` longest kinds of gaps as text."""
    whole = max(times.busy + times.idle, 1e-9)
    lines = [f"device busy {times.busy / 1e3:.1f} ms, idle {times.idle / 1e3:.1f} ms ({times.idle / whole:.1%})"]
    lines += [f"{us / 1e3:9.2f} ms {n:6d} x  {name}" for name, n, us in times.gaps[:rows]]
    return "\n".join(lines)
