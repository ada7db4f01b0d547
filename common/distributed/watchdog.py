"""Ends a process that hangs, so that the failure has a cause and the launcher ends the job."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from common.logger import get_logger

logger = get_logger(__name__)


class Watchdog:
    """A context manager that ends this process if `alive` is not called for `silence_s` seconds.

    It first writes the stacks of all threads to standard error. It runs outside of Python, so it also detects a library
    call that never returns.
    """

    def __init__(self, rank: int, silence_s: float) -> None:
        self.rank, self.silence_s = rank, silence_s
        self.activity = "starting"
        self._watching = False

    def alive(self, activity: str) -> None:
        """Report that this process makes progress, with `activity`."""
        self.activity = activity
        if self._watching:
            logger.debug("rank %d: %s", self.rank, activity)
            faulthandler.dump_traceback_later(self.silence_s, exit=True, file=_stderr())

    @contextmanager
    def waiting(self, on: str) -> Iterator[None]:
        """A context in which the watchdog is off, for collective calls, which have their own, longer timeout."""
        before, self.activity = self.activity, f"waiting for {on}"
        faulthandler.cancel_dump_traceback_later()
        yield
        self.alive(before)

    def __enter__(self) -> "Watchdog":
        self._watching = True
        self.alive(self.activity)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType) -> None:
        self._watching = False
        faulthandler.cancel_dump_traceback_later()


def _stderr() -> TextIO:
    """Standard error as a file with a descriptor, even if a test has replaced `sys.stderr`."""
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        assert sys.__stderr__ is not None, "a process without standard error"
        return sys.__stderr__
    return sys.stderr
