"""SIGTERM and SIGHUP end a program as Ctrl-C does: it removes temporary files, logs a line, and exits with a code."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

REPEAT_S = 3.0  # a second signal within this time is the same wish, and must not break the tidying up
NAMES = ("SIGTERM", "SIGHUP", "SIGINT")


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells say it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + getattr(error, "number", signal.SIGINT)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise `Interrupted` in the block. A signal that is ignored (nohup) stays so; only in the main thread.

    After that the process is about to end: the same wish once more (a terminal and torchrun both send it) does not
    disturb what Python does at its exit, and ends the process after a while.
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
            if signal.getsignal(number) is handle:  # else a block inside this one has ended the program
                signal.signal(number, handler if first is None else ending)
