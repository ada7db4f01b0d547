"""Asynchronous copies between the host and the compute device."""

from collections import deque

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`. A copy from the host to a CUDA device is asynchronous, since it goes through pinned memory."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    x = x.contiguous()  # otherwise the copy would first make a contiguous one in unpinned memory
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)


class HostCopy:
    """An asynchronous copy of tensors to the host, queued behind the current work. Only `arrive` waits for it.

    Args:
        tensors: all on one device. Tensors on a CPU are not copied.
    Attributes:
        nbytes: total size of the tensors in bytes.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.nbytes = sum(x.nbytes for x in tensors)
        self._event: torch.cuda.Event | None = None
        self._tensors = tensors
        self._sources: tuple[Tensor, ...] = ()
        if any(x.is_cuda for x in tensors):
            # Keep the sources referenced until the copies are done, or the allocator could reuse their memory.
            self._sources = tensors
            self._tensors = tuple(
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors
            )
            self._event = torch.cuda.Event(blocking=True)
            self._event.record()

    def arrive(self) -> tuple[Tensor, ...]:
        """Wait for the copies and return the tensors on the host. Another thread may call this."""
        if self._event is not None:
            self._event.synchronize()
            self._event, self._sources = None, ()
        return self._tensors


class RunAheadLimit:
    """Limits how many pieces of work the host queues ahead of a CUDA device, since queued results take pinned memory.

    Args:
        device: the device that computes; there is no limit unless it is a CUDA device.
        ahead: number of unfinished pieces that may be queued.
    """

    def __init__(self, device: torch.device, ahead: int = 2) -> None:
        self._cuda, self._ahead = device.type == "cuda", ahead
        self._events: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Call this after queueing a piece of work: waits until the piece `ahead` before it is done."""
        if not self._cuda:
            return
        event = torch.cuda.Event(blocking=True)
        event.record()
        self._events.append(event)
        if len(self._events) > self._ahead:
            self._events.popleft().synchronize()
