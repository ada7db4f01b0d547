"""Saying which process failed first, and why: one failure makes every other process fail in turn."""

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
PATIENCE_S = 2.0  # how long one that lost its partner waits for the partner's own words
TROUBLE_OF_OTHERS = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)


class RefusedRequest(Exception):
    """What the user asks for cannot be done; the message is a sentence that says so. No fault of a process."""


def report_failure(error: BaseException, process: "Process") -> None:
    """Log the failure, leave it for the other processes to read, and hand it to torchrun for its summary.

    Ctrl-C and its like are no failures. A refusal, which all processes come to alike, is said by the first of them.
    A process that only lost its partner waits for the partner's words first, so that torchrun, which names the earliest
    failure, names the right one.
    """
    if not isinstance(error, Exception):
        return
    who = f"rank {process.rank} of {process.world}"
    if lost_partner(error):
        cause = read_cause(process.store)
        logger.error("%s ends too: %s", who, cause or f"another process is gone or silent ({first_line(error)})")
    elif isinstance(error, RefusedRequest):
        if leave_cause(process.store, str(error)) != str(error) or process.leads:
            logger.error("%s", error)
        return  # torchrun's summary would repeat where the refusal was raised, which says nothing
    else:
        doing = f" during {process.watchdog.doing}" if process.watchdog else ""
        cause = f"{who} failed{doing}: {type(error).__name__}: {error}"
        logger.error("%s", cause)
        leave_cause(process.store, cause)
    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)


def lost_partner(error: BaseException) -> bool:
    """Does the error only say that some other process went away or is late?"""
    if isinstance(error, TROUBLE_OF_OTHERS):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))


def read_cause(store: dist.Store | None) -> str | None:
    """What the first failing process left; None when nothing came in time (it was killed, or hangs)."""
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
    """Only the first cause stays; returns it."""
    if store is None:
        return cause
    try:
        return store.compare_set(CAUSE, "", cause).decode()
    except (RuntimeError, OSError) as error:
        logger.debug("the cause of failure could not be told to the others: %s", error)
        return cause


def first_line(error: BaseException) -> str:
    """The start of an error's message."""
    return str(error).strip().split("\n")[0][:200]
