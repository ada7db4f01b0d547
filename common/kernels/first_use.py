"""Initialises a GPU's libraries in a thread, while input files are inspected and weights are read.

The first convolution, matrix product and attention of a process load GPU code, and the first Triton kernel initialises
Triton. In a run of one picture this takes longer than the networks.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from common.kernels.norm import norm_modulate
from common.logger import get_logger

logger = get_logger(__name__)

SIDE = 64  # size of the tensors' dimensions


@contextmanager
def first_use(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Call each library once in a thread while the block runs; without effect if `device` is not a CUDA device.

    An error is only logged, because the run itself raises it again. The end of the block waits for the thread, because
    a process that exits while a thread is inside the driver may crash.
    """
    if device.type != "cuda":
        yield
        return
    thread = threading.Thread(target=_use, args=(device, dtype), name="first use of the GPU", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@torch.inference_mode()
def _use(device: torch.device, dtype: torch.dtype) -> None:
    try:
        with torch.cuda.device(device):
            x = torch.zeros(1, SIDE, SIDE, SIDE, device=device, dtype=dtype).to(memory_format=torch.channels_last)
            norm_modulate(x[0, 0], x[0, 0, :1], x[0, 0, :1], None, 1e-5)
            F.scaled_dot_product_attention(x, x, x)
            weight = torch.zeros(SIDE, SIDE, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
            F.conv2d(x, weight, padding=1)
            F.linear(x[0, 0], x[0, 0], x[0, 0, 0])
    except Exception as error:
        logger.debug("a first use of the GPU failed: %s", error, exc_info=error)
