"""Reports which process of a job failed first, and why, since the failure of one makes all others fail."""

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
PATIENCE_S = 2.0  # how long a process waits for the message of another process that has failed
TROUBLE_OF_OTHERS = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)


class RefusedRequest(Exception):
    """The user's request cannot be carried out; the message says why. This is not a failure of a process."""


def report_failure(error: BaseException, process: "Process") -> None:
    """Log the failure, store it for the other processes, and record it for torchrun's summary.

    Ctrl-C and other signals are not failures. A refusal is the same on all processes, so only the first one logs it. A
    process that fails because another one has failed waits for the message of that one, because torchrun reports the
    earliest failure as the cause.
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
        return  # torchrun's summary would only repeat the line at which the refusal was raised
    else:
        activity = f" during {process.watchdog.activity}" if process.watchdog else ""
        cause = f"{this} failed{activity}: {type(error).__name__}: {error}"
        logger.error("%s", cause)
        leave_cause(process.store, cause)
    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)


def lost_partner(error: BaseException) -> bool:
    """Whether an error only says that another process has ended or does not answer."""
    if isinstance(error, TROUBLE_OF_OTHERS):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))


def read_cause(store: dist.Store | None) -> str | None:
    """The stored message of the first failed process; None if there is none in time (it was killed, or hangs)."""
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
    """Store a cause unless one is stored. Returns the stored cause."""
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
