"""Weights from a memory-mapped file to a GPU, by several threads.

A copy from pageable memory goes through the driver's small buffer, and one thread that faults in the file's pages is
slower than the bus. Here every thread copies into pinned buffers of its own, of which one travels while the next fills.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

THREADS = 8
BUFFER = 8 << 20  # bytes
BUFFERS = 2  # of a thread


def in_threads(
    make: Callable[[str, "Uploader"], Tensor], names: Iterable[str], device: torch.device
) -> dict[str, Tensor]:
    """name -> `make(name, uploader)`, made by several threads and in the order of the names.

    After an error or Ctrl-C nothing new is begun: a file on a slow disk may take minutes.
    """
    names, upload = list(names), Uploader(device)
    with ThreadPoolExecutor(THREADS, "upload") as pool:  # whose `map` cancels what waits when it is left
        return dict(zip(names, pool.map(lambda name: make(name, upload), names), strict=True))


class Uploader:
    """Copies tensors to one CUDA device, in any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._of_thread = device, threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        """`x` on the device, with the same strides; work queued by this thread from now on sees it complete."""
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
        """The thread's buffer that was given away first, and the event that frees it."""
        if not hasattr(self._of_thread, "buffers"):
            torch.cuda.set_device(self._device)
            buffers = (torch.empty(BUFFER, dtype=torch.uint8, pin_memory=True) for _ in range(BUFFERS))
            self._of_thread.buffers = deque((buffer, torch.cuda.Event()) for buffer in buffers)
        buffer, free = self._of_thread.buffers[0]
        self._of_thread.buffers.rotate(-1)
        free.synchronize()
        return buffer, free
