"""Decides when Triton kernels are used. Triton is optional, because every operation has a plain PyTorch path."""

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
    """The kernels that operations use.

    AUTO: Triton kernels for the tensors that `use_triton` accepts, else plain PyTorch.
    PLAIN: plain PyTorch.
    AHEAD: Triton kernels for tensors of the meta device; `launch` compiles them without running them.
    """

    AUTO = "auto"
    PLAIN = "plain"
    AHEAD = "ahead"


_chosen: ContextVar[Kernels] = ContextVar("kernels", default=Kernels.AUTO)


@contextmanager
def kernels(choice: Kernels) -> Iterator[None]:
    """Operations in this block and thread use the kernels of `choice`; blocks may be nested."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


@cached_choice
def triton_available() -> bool:
    """Whether the Triton kernels can be used: see `why_plain`. Decided and logged once."""
    why, chosen = why_plain(), os.environ.get("SEEDVR_KERNELS", "")
    if chosen not in ("", "plain"):
        logger.warning("SEEDVR_KERNELS=%s changes nothing: the only value is plain", chosen)
    if why is None:
        logger.debug("own kernels: Triton on CUDA")
    else:
        # Users expect plain PyTorch on a machine without a GPU, so this is not logged as information there.
        say = logger.info if torch.cuda.is_available() else logger.debug
        say("own kernels: plain PyTorch in their place, which is slower: %s", why)
    return why is None


def why_plain() -> str | None:
    """Why no Triton kernel is used: SEEDVR_KERNELS=plain, ROCm, or no Triton. None if none of these applies."""
    if os.environ.get("SEEDVR_KERNELS") == "plain":
        return "SEEDVR_KERNELS=plain"
    if torch.version.hip is not None:
        return "they are made for NVIDIA's GPUs, and this PyTorch is for AMD's"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (on Windows: pip install triton-windows)"
    return None


def use_triton(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors uses its Triton kernel.

    The tensors must be on CUDA (on the meta device in `kernels(Kernels.AHEAD)`) and of a dtype of `FLOATS`, with
    gradients disabled; Triton's interpreter also takes others. It is always False in `kernels(Kernels.PLAIN)`.
    """
    if torch.is_grad_enabled() or not triton_available():  # in this order, so that compiled training traces one branch
        return False
    choice = _chosen.get()
    if choice is Kernels.PLAIN:
        return False
    if choice is Kernels.AHEAD:
        return all(x.is_meta and x.dtype in FLOATS for x in tensors)
    return all(x.is_cuda and x.dtype in FLOATS for x in tensors) or _interpreted()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel on `grid`; with `Kernels.AHEAD`, only compile it for arguments of these types.

    Args:
        kernel: a function decorated with `triton.jit`.
        grid: number of programs in each dimension.
        arguments: its arguments at run time.
        constants: its compile-time constants, and Triton's options such as `num_warps`.
    """
    if _chosen.get() is Kernels.AHEAD:
        kinds = (x.dtype if isinstance(x, Tensor) else x for x in arguments)
        kernel.warmup(*kinds, grid=grid, **constants)
    else:
        kernel[grid](*arguments, **constants)


def _interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors; tests use it where there is no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
