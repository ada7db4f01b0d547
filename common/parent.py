"""A process that a launcher started ends soon after its launcher, however that died.

torchrun, killed, cannot end its workers: they would go on beside the job that the user starts next.
"""

import contextlib
import os
import signal
import sys
import threading
import time

POLL_S = 0.5
GRACE_S = 3.0  # from the request to end to the end
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Call it early, in the main thread: SIGTERM when the parent dies, and the end a few seconds later."""
    parent = os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.name == "posix":
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent watch").start()


def has_launcher() -> bool:
    """Whether the parent is a launcher that must not be outlived: torchrun, or `common.distributed.launcher`."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SEEDVR_LAUNCHER" in os.environ


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)  # a word, and nothing left; where the main thread can still hear it
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
