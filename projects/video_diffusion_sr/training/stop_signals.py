"""Stops a run after SIGTERM or SIGINT: the run finishes its step, writes a checkpoint, and ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.distributed import fsdp
from common.distributed.process import Process
from common.logger import get_logger

logger = get_logger(__name__)

MOST_STEPS = 10  # the largest number of steps between two votes


class StopRequest:
    """Records whether this process has received a stop signal."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal: record the first one, and raise KeyboardInterrupt at the second."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("%s: finishing this step, then saving; a second signal stops at once", signal.Signals(number).name)


class StopVote:
    """Lets all ranks of a job stop after the same step.

    A vote makes every device wait, so ranks vote at most once a second, and at least every `MOST_STEPS` steps.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.every = 1

    def passed(self, request: StopRequest, step: int) -> bool:
        """Whether any rank has received a stop signal. Every rank must call it after every step."""
        if self.process.world == 1:
            return request.asked
        return step % self.every == 0 and fsdp.any_rank(request.asked, self.process.device)

    def set_interval(self, steps_per_s: float) -> None:
        """Set how often ranks vote, from their mean speed. Every rank must call it."""
        mean = fsdp.mean_over_ranks(torch.tensor(steps_per_s, device=self.process.device)).item()
        self.every = max(1, min(MOST_STEPS, int(mean)))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A context that catches both signals; outside the main thread it catches nothing."""
    request, previous = StopRequest(), {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, request)
    except ValueError:  # not the main thread
        pass
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
