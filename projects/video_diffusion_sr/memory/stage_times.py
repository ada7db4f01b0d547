"""How long the device is at work on each stage of one clip, without waiting for it meanwhile."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimes:
    """Adds up the seconds of stages, by name.

    On a CUDA device they lie between two events in its queue, and are known when the device is through; elsewhere they
    are the caller's time, which is the device's only where calls return with their results, as on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """What the block gives the device to do counts to a stage."""
        if self._device.type != "cuda":
            begun = time.perf_counter()
            yield
            self._seconds[stage] += time.perf_counter() - begun
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(torch.cuda.current_stream(self._device))
        yield
        end.record(torch.cuda.current_stream(self._device))
        self._events.append((stage, begin, end))
        while self._events and self._events[0][-1].query():  # a stream has no end of them
            self._add(*self._events.popleft())

    def seconds(self) -> dict[str, float]:
        """Seconds by stage; waits until the device is through with what was measured."""
        while self._events:
            stage, begin, end = self._events.popleft()
            end.synchronize()
            self._add(stage, begin, end)
        return dict(self._seconds)

    def _add(self, stage: str, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        self._seconds[stage] += begin.elapsed_time(end) / 1000
