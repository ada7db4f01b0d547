"""What a GPU's libraries do at their first call, done in a thread while files are looked at and weights are read.

A process's first convolution, product and attention load code for the GPU, and the first own kernel initialises Triton.
A run of one picture would wait longer for that than for its networks.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from common.kernels.norm import norm_modulate
from common.logger import get_logger

logger = get_logger(__name__)

SIDE = 64  # of the tensors that are computed with


@contextmanager
def first_use(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Do this in a thread while the block runs, if `device` is a CUDA device.

    An error is logged only: the run itself meets it again. The block waits for the thread, because a process that ends
    while a thread is in the driver may crash.
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
