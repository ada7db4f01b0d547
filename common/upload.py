"""Copies weights from a memory-mapped file to a GPU with several threads.

A copy from pageable memory passes through a small buffer of the driver, and a single thread that reads the pages of a
file is slower than the bus. Here every thread fills its own pinned buffers, one while the other is being copied.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from common.kernels.current_device import enter_stream, stream_of

THREADS = 8
BUFFER = 8 << 20  # bytes of a buffer
BUFFERS = 2  # buffers per thread


def in_threads(
    make: Callable[[str, "Uploader"], Tensor], names: Iterable[str], device: torch.device
) -> dict[str, Tensor]:
    """Call `make(name, uploader)` for each name in several threads. Yields the results in the order of the names.

    After an error or Ctrl-C no further call is started, since reading from a slow disk may take minutes.
    """
    names, upload = list(names), Uploader(device)
    with ThreadPoolExecutor(THREADS, "upload", enter_stream, (stream_of(device),)) as pool:
        # Leaving `map` cancels waiting calls.
        return dict(zip(names, pool.map(lambda name: make(name, upload), names), strict=True))


class Uploader:
    """Copies tensors to one CUDA device; may be used from any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._of_thread = device, threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        """Copy `x` to the device, with the same strides. Later work of this thread's stream sees the complete copy."""
        if x.is_cuda or not x.is_contiguous() or not x.numel():
            return x.to(self._device)
        result = torch.empty_like(x, device=self._device)
        source, target = x.detach().reshape(-1).view(torch.uint8).numpy(), result.reshape(-1).view(torch.uint8)
        for start in range(0, len(source), BUFFER):
            chunk = source[start : start + BUFFER]
            buffer, free = self._next_buffer()
            np.copyto(buffer[: len(chunk)].numpy(), chunk)  # lets other threads run meanwhile
            target[start : start + BUFFER].copy_(buffer[: len(chunk)], non_blocking=True)
            free.record()
        return result

    def _next_buffer(self) -> tuple[Tensor, torch.cuda.Event]:
        """The least recently used buffer of the thread, and the event after which it is free."""
        if not hasattr(self._of_thread, "buffers"):
            buffers = (torch.empty(BUFFER, dtype=torch.uint8, pin_memory=True) for _ in range(BUFFERS))
            self._of_thread.buffers = deque((buffer, torch.cuda.Event()) for buffer in buffers)
        buffer, free = self._of_thread.buffers[0]
        self._of_thread.buffers.rotate(-1)
        free.synchronize()
        return buffer, free
