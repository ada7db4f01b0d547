"""Restarts a run whose process has crashed, without the file that caused the crash.

A fault in a decoder can end the whole process. A run therefore works in a child process, forked before anything is
imported, while its parent waits. The child records which files it is processing. If it crashes with a single file, that
file has failed. If it was processing several, each of them is tried again by itself, after all other files.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from common.logger import printable
from common.signals import NAMES

CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")
MOST_IN_VAIN = 5  # after this number of crashes without a finished file in between, files are not the cause
PR_SET_PDEATHSIG = 1


@dataclass
class History:
    """The state of a run's files, by name, over all its attempts.

    attempt: number of restarts.
    done: finished files; False: the file has failed, and its line was logged.
    suspects: files that were being processed together with others at a crash.
    at_fault: files that caused a crash, with the signal.
    notes: descriptor of the file in which this attempt records its files; None: nothing is recorded.
    """

    attempt: int = 0
    done: dict[str, bool] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    at_fault: dict[str, str] = field(default_factory=dict)
    notes: int | None = None

    def begun(self, name: str) -> None:
        """Record that a file is being processed."""
        self._note("begun", name)

    def finished(self, name: str, good: bool) -> None:
        """Record that a file is finished. `good`: it was restored, or skipped as requested."""
        self._note("good" if good else "failed", name)

    def crashed(self, how: str) -> list[str]:
        """Evaluate the records of a crashed attempt. Returns the files that were being processed."""
        assert self.notes is not None, "an attempt that may crash takes notes"
        in_hand: dict[str, None] = {}
        for event, name in map(json.loads, os.pread(self.notes, os.fstat(self.notes).st_size, 0).splitlines()):
            if event == "begun":
                in_hand[name] = None
            else:
                in_hand.pop(name, None)
                self.done[name] = event == "good"
        os.ftruncate(self.notes, 0)
        os.lseek(self.notes, 0, os.SEEK_SET)
        self.attempt += 1
        if len(in_hand) == 1:
            self.at_fault[next(iter(in_hand))] = how
        self.suspects = {name for name in (*self.suspects, *in_hand) if name not in self.done | self.at_fault}
        return list(in_hand)

    def _note(self, event: str, name: str) -> None:
        if self.notes is not None:
            os.write(self.notes, json.dumps([event, name]).encode() + b"\n")


def survive_crashes(run: Callable[[History], int]) -> int:
    """Call `run` in a child process, and again after each crash that identifies a file.

    Args:
        run: a function from the history of the files to an exit code.
    Returns:
        the exit code, in the parent and in the child; both must exit with it. If the child is ended by a signal and not
        restarted, the parent ends by the same signal.
    """
    notes = shared_notes() if is_possible() else None
    if notes is None:
        return run(History())
    history, in_vain = History(notes=notes), 0
    while True:
        code = _in_a_child(lambda: run(history))
        if isinstance(code, InChild):
            return code.code
        if code >= 0:
            return code
        known, how = len(history.done), _name_of(-code)
        in_hand = history.crashed(how) if how in CRASHES else []
        in_vain = 0 if len(history.done) > known else in_vain + 1
        if not in_hand or in_vain == MOST_IN_VAIN:
            _end_by(-code)
        files = ", ".join(printable(os.path.basename(name)) for name in in_hand)
        sys.stderr.write(f"the program crashed ({how}) with {files} in hand, and starts again\n")


def is_possible() -> bool:
    """Whether this process can fork safely (it has no other threads) and the child can be ended with it."""
    forks = sys.platform == "linux" and hasattr(os, "memfd_create")
    return forks and threading.active_count() == 1 and "torch" not in sys.modules


def shared_notes() -> int | None:
    """The descriptor of a file in memory; None if the system refuses one, as some sandboxes do."""
    try:
        return os.memfd_create("files in hand")
    except OSError:
        return None


@dataclass(frozen=True)
class InChild:
    """Raised in the child when its work is done."""

    code: int


def _in_a_child(work: Callable[[], int]) -> int | InChild:
    """Fork. In the parent, forward signals to the child, and return its exit code (negative for a signal)."""
    sys.stdout.flush()
    sys.stderr.flush()
    numbers = [getattr(signal, name) for name in NAMES if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in numbers}
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until parent and child can handle them
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        return InChild(work())

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    try:
        for number in numbers:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return os.waitstatus_to_exitcode(status)


def _end_with(parent: int) -> None:
    """In the child, request SIGKILL for when the parent dies, so that killing the parent ends the run at once."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_by(number: int) -> None:
    """End this process by the signal that ended its child, without a second core dump."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
