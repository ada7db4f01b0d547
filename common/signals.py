"""SIGTERM and SIGHUP end a program as Ctrl-C does: it removes temporary files, logs a line, and exits with a code."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

REPEAT_S = 3.0  # a second signal within this time is ignored, so that it does not interrupt the cleanup
NAMES = ("SIGTERM", "SIGHUP", "SIGINT")


class Interrupted(KeyboardInterrupt):
    """This process has received a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """128 plus the number of the signal, as in shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + getattr(error, "number", signal.SIGINT)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """A context in which signals raise `Interrupted`. Ignored signals (nohup) stay ignored. Main thread only.

    After a signal the process is about to end. A repeated signal (a terminal and torchrun both send one) does not
    interrupt the cleanup, and ends the process after a while.
    """
    first = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None or now - first > REPEAT_S:
            first = now
            raise Interrupted(number)

    def ending(number: int, frame: FrameType | None) -> None:
        if first is None or time.monotonic() - first > REPEAT_S:
            os._exit(128 + number)

    previous = {}
    try:
        for name in NAMES:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is handle:  # otherwise an inner context has ended the program
                signal.signal(number, handler if first is None else ending)
