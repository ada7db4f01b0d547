"""Reports which process failed first, and why: one failure makes every other process fail, too."""

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from common.logger import get_logger

if TYPE_CHECKING:
    from common.distributed.process import Process

logger = get_logger(__name__)

CAUSE = "cause of failure"
PATIENCE_S = 2.0  # how long a process that lost another one waits for that one's message
TROUBLE_OF_OTHERS = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)


class RefusedRequest(Exception):
    """The user's request cannot be carried out; the message is a sentence that says why. Not a failure of a process."""


def report_failure(error: BaseException, process: "Process") -> None:
    """Log the failure, store it for the other processes, and record it for torchrun's summary.

    Ctrl-C and other signals are no failures. A refusal, which is the same on all processes, is logged by the first one.
    A process that only lost another one waits for its message first, so that torchrun, which reports the earliest
    failure, reports the right one.
    """
    if not isinstance(error, Exception):
        return
    this = f"rank {process.rank} of {process.world}"
    if lost_partner(error):
        cause = read_cause(process.store)
        logger.error("%s ends too: %s", this, cause or f"another process is gone or silent ({first_line(error)})")
    elif isinstance(error, RefusedRequest):
        if leave_cause(process.store, str(error)) != str(error) or process.is_leader:
            logger.error("%s", error)
        return  # torchrun's summary would repeat where the refusal was raised, which says nothing
    else:
        activity = f" during {process.watchdog.activity}" if process.watchdog else ""
        cause = f"{this} failed{activity}: {type(error).__name__}: {error}"
        logger.error("%s", cause)
        leave_cause(process.store, cause)
    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)


def lost_partner(error: BaseException) -> bool:
    """Whether the error only means that another process ended or is late."""
    if isinstance(error, TROUBLE_OF_OTHERS):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))


def read_cause(store: dist.Store | None) -> str | None:
    """The stored message of the first failing process; None if there is none in time (it was killed, or hangs)."""
    if store is None:
        return None
    try:
        store.wait([CAUSE], timedelta(seconds=PATIENCE_S))
        cause = store.get(CAUSE).decode()
    except (RuntimeError, OSError):
        return None
    time.sleep(PATIENCE_S / 4)
    return cause


def leave_cause(store: dist.Store | None, cause: str) -> str:
    """Store a cause unless there is one; returns the stored one."""
    if store is None:
        return cause
    try:
        return store.compare_set(CAUSE, "", cause).decode()
    except (RuntimeError, OSError) as error:
        logger.debug("the cause of failure could not be stored for the others: %s", error)
        return cause


def first_line(error: BaseException) -> str:
    """The start of an error's message."""
    return str(error).strip().split("\n")[0][:200]
