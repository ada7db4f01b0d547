"""What becomes of a run whose process crashes? Its parent starts it again, without the file at fault.

A decoder that runs into its own mistake ends its whole process, and nothing in that process can prevent it. So a run
works in a child process that is forked before anything is imported, and its parent only waits. The child notes which
files it has in hand. One that it had in hand alone when it crashed is at fault; of several each is tried again, by
itself, after all others.
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
MOST_IN_VAIN = 5  # crashes one after the other between which no file was finished: it is not the files
PR_SET_PDEATHSIG = 1


@dataclass
class History:
    """The files of a run, by name, over all its attempts.

    attempt: how often the run has been started again.
    done: files that are finished; False: they failed, as was said then.
    suspects: files that were in hand, with others, at a crash. at_fault: with the signal of the crash.
    notes: descriptor of a file that takes the notes of this attempt; None: they are not read.
    """

    attempt: int = 0
    done: dict[str, bool] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    at_fault: dict[str, str] = field(default_factory=dict)
    notes: int | None = None

    def begun(self, name: str) -> None:
        """This file is in hand from now on."""
        self._note("begun", name)

    def finished(self, name: str, good: bool) -> None:
        """It is not any longer. good: it was restored, or left out as asked."""
        self._note("good" if good else "failed", name)

    def crashed(self, how: str) -> list[str]:
        """The attempt of these notes has crashed: learn from them. Returns the files that were in hand."""
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
    """Run something in a child process, and again after each crash that says more about the files.

    Args:
        run: takes what is known of the files; returns an exit code.
    Returns:
        The exit code, in the parent; in the child what `run` returns, so both must end with it. Where the child was
        ended by a signal for good, this process ends by the same one.
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
    """Whether this process may fork, and its child can be ended with it: nothing may be running in it yet."""
    forks = sys.platform == "linux" and hasattr(os, "memfd_create")
    return forks and threading.active_count() == 1 and "torch" not in sys.modules


def shared_notes() -> int | None:
    """The descriptor of a file in memory; None where the system refuses one, as some sandboxes do."""
    try:
        return os.memfd_create("files in hand")
    except OSError:
        return None


@dataclass(frozen=True)
class InChild:
    """This is the child, and its work is done."""

    code: int


def _in_a_child(work: Callable[[], int]) -> int | InChild:
    """Fork. In the parent: the exit code of the child, negative for a signal, once it has ended; until then signals to
    the parent are forwarded to it."""
    sys.stdout.flush()
    sys.stderr.flush()
    numbers = [getattr(signal, name) for name in NAMES if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in numbers}
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until it is known whose they are
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
    """In the child: SIGKILL when the parent dies, so that whoever kills that one ends the run at once."""
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
    """End this process by a signal, as its child was, without a second dump of its memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
