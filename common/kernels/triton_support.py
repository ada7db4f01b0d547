"""When the Triton kernels are taken. Nothing needs Triton: every operation has a plain path."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from common.kernels.cached_choice import cached_choice
from common.logger import get_logger

logger = get_logger(__name__)

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Kernels(Enum):
    """Which kernels operations take: Triton's where they can be taken (`use_triton`), or plain torch everywhere.

    AHEAD: Triton's, for tensors of the meta device, of which nothing is computed: `launch` compiles and does not run.
    """

    AUTO = "auto"
    PLAIN = "plain"
    AHEAD = "ahead"


_chosen: ContextVar[Kernels] = ContextVar("kernels", default=Kernels.AUTO)


@contextmanager
def kernels(choice: Kernels) -> Iterator[None]:
    """Within this block operations take the kernels of `choice`, in this thread; blocks may be nested."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


@cached_choice
def triton_available() -> bool:
    """Do the own kernels run here? Not without Triton, on ROCm, or with SEEDVR_KERNELS=plain. Decided and said once."""
    why = why_plain()
    if why is None:
        logger.debug("own kernels: Triton on CUDA")
    else:
        # On a machine without a GPU plain PyTorch is what is expected.
        say = logger.info if torch.cuda.is_available() else logger.debug
        say("own kernels: plain PyTorch in their place, which is slower: %s", why)
    return why is None


def why_plain() -> str | None:
    """Why no Triton kernel is taken; None where they are."""
    if os.environ.get("SEEDVR_KERNELS") == "plain":
        return "SEEDVR_KERNELS=plain"
    if torch.version.hip is not None:
        return "they are made for NVIDIA's GPUs, and this PyTorch is for AMD's"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (on Windows: pip install triton-windows)"
    return None


def use_triton(*tensors: Tensor) -> bool:
    """CUDA tensors of a dtype that the kernels support, outside of autograd and of `kernels(Kernels.PLAIN)`."""
    if torch.is_grad_enabled() or not triton_available():  # in this order: compiled training has one branch to trace
        return False
    choice = _chosen.get()
    if choice is Kernels.PLAIN:
        return False
    if choice is Kernels.AHEAD:
        return all(x.is_meta and x.dtype in FLOATS for x in tensors)
    return all(x.is_cuda and x.dtype in FLOATS for x in tensors) or _interpreted()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel on `grid`; with `Kernels.AHEAD` only compile it for arguments like these.

    Args:
        kernel: of `triton.jit`. constants: its compile-time constants and Triton's own, like `num_warps`.
    """
    if _chosen.get() is Kernels.AHEAD:
        kinds = (x.dtype if isinstance(x, Tensor) else x for x in arguments)
        kernel.warmup(*kinds, grid=grid, **constants)
    else:
        kernel[grid](*arguments, **constants)


def _interpreted() -> bool:
    """Triton's interpreter runs kernels on CPU tensors: how their logic is tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
