"""Ends a process soon after the launcher that started it has died.

A killed torchrun cannot end its workers, which would otherwise keep running beside the user's next job.
"""

import contextlib
import os
import signal
import sys
import threading
import time

POLL_S = 0.5
GRACE_S = 3.0  # time from SIGTERM to the end of the process
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Request SIGTERM for when the parent dies, and the end a few seconds later. Call it early, in the main thread."""
    parent = os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.name == "posix":
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent watch").start()


def has_launcher() -> bool:
    """Whether the parent is a launcher: torchrun, or `common.distributed.launcher`."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SEEDVR_LAUNCHER" in os.environ


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread can log a line and remove files
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
