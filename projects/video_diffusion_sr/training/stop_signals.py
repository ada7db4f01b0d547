"""SIGTERM and SIGINT as a request: the step under way is finished, a checkpoint written, then the run leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from common.logger import get_logger

logger = get_logger(__name__)


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: object) -> None:
        """The signal handler: once is a request, twice is an order."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.info("%s: finishing this step, then saving; once more stops at once", signal.Signals(number).name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch both signals inside of the `with`; only in the main thread, elsewhere nothing is caught."""
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
