"""SIGTERM and SIGINT ask a run to stop: it finishes the step, writes a checkpoint, and ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.distributed import fsdp
from common.distributed.process import Process
from common.logger import get_logger

logger = get_logger(__name__)

MOST_STEPS = 10  # between two questions to all ranks


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: object) -> None:
        """The signal handler: the first signal is stored, the second raises KeyboardInterrupt."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("%s: finishing this step, then saving; a second signal stops at once", signal.Signals(number).name)


class StopVote:
    """Lets all ranks of a job stop after the same step.

    Asking makes every device wait, so several ranks ask once a second at most, and at least every `MOST_STEPS` steps.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.every = 1

    def passed(self, request: StopRequest, step: int) -> bool:
        """Whether any rank was asked to stop. Every rank calls it after every step."""
        if self.process.world == 1:
            return request.asked
        return step % self.every == 0 and fsdp.any_rank(request.asked, self.process.device)

    def set_interval(self, steps_per_s: float) -> None:
        """Set how often ranks ask, from their mean speed; every rank calls it."""
        mean = fsdp.mean_over_ranks(torch.tensor(steps_per_s, device=self.process.device)).item()
        self.every = max(1, min(MOST_STEPS, int(mean)))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch both signals inside the `with` block. Outside the main thread nothing is caught."""
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
