"""Measures how long the device works on each stage of a clip, without waiting for the device."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimes:
    """Sums the seconds of each stage.

    On a CUDA device, the time is measured between two events in the device's queue. On other devices it is the time of
    the host, which equals that of the device only if calls wait for their results, as on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """A context whose work on the device counts as time of a stage."""
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
        while self._events and self._events[0][-1].query():  # a stream would collect events without limit
            self._add(*self._events.popleft())

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage. Waits until the device has finished the measured work."""
        while self._events:
            stage, begin, end = self._events.popleft()
            end.synchronize()
            self._add(stage, begin, end)
        return dict(self._seconds)

    def _add(self, stage: str, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        self._seconds[stage] += begin.elapsed_time(end) / 1000
