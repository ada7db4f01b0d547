"""When the Triton kernels are taken. Nothing needs Triton: every operation has a plain path."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

import torch
from torch import Tensor

from common.kernels.decided import decided_once
from common.logger import get_logger

logger = get_logger(__name__)

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Kernels(Enum):
    """Which kernels operations take: Triton's where they can be taken (`use_triton`), or plain torch everywhere."""

    AUTO = "auto"
    PLAIN = "plain"


_chosen: ContextVar[Kernels] = ContextVar("kernels", default=Kernels.AUTO)


@contextmanager
def kernels(choice: Kernels) -> Iterator[None]:
    """Within this block operations take the kernels of `choice`, in this thread; blocks may be nested."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


@decided_once
def triton_available() -> bool:
    """Is Triton importable, and not switched off by SEEDVR_KERNELS=plain? Decided once and said once."""
    found = importlib.util.find_spec("triton") is not None and os.environ.get("SEEDVR_KERNELS") != "plain"
    logger.debug("own kernels: %s", "Triton on CUDA" if found else "plain torch")
    return found


def use_triton(*tensors: Tensor) -> bool:
    """CUDA tensors of a dtype that the kernels know, outside of autograd and of `kernels(Kernels.PLAIN)`."""
    if torch.is_grad_enabled() or not triton_available():  # in this order: compiled training has one branch to trace
        return False
    if _chosen.get() is Kernels.PLAIN:
        return False
    return all(x.is_cuda and x.dtype in FLOATS for x in tensors) or _interpreted()


def _interpreted() -> bool:
    """Triton's interpreter runs kernels on CPU tensors: how their logic is tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
