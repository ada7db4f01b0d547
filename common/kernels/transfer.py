"""Asynchronous copies between the host and the device that computes."""

from collections import deque

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`, without waiting for what a CUDA device computes now, as a copy from unpinned memory would."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    x = x.contiguous()  # a view with gaps would be packed again on the way, into memory that is not pinned
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)


class HostCopy:
    """An asynchronous copy of tensors to the host, behind the work queued so far. Only `arrive` waits for it.

    Args:
        tensors: on one device. Those on a CPU are taken as they are.
    Attributes:
        nbytes: of all of them.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.nbytes = sum(x.nbytes for x in tensors)
        self._event: torch.cuda.Event | None = None
        self._tensors = tensors
        self._sources: tuple[Tensor, ...] = ()
        if any(x.is_cuda for x in tensors):
            # The sources stay referenced until the copies are done; the allocator would hand their memory out again.
            self._sources = tensors
            self._tensors = tuple(
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors
            )
            self._event = torch.cuda.Event(blocking=True)
            self._event.record()

    def arrive(self) -> tuple[Tensor, ...]:
        """The tensors on the host; waits until they are there. May be called in another thread."""
        if self._event is not None:
            self._event.synchronize()
            self._event, self._sources = None, ()
        return self._tensors


class RunAheadLimit:
    """Limits how many pieces of work the host queues ahead of a CUDA device: queued results take pinned memory.

    Args:
        ahead: pieces.
    """

    def __init__(self, device: torch.device, ahead: int = 2) -> None:
        self._cuda, self._ahead = device.type == "cuda", ahead
        self._events: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """A piece of work is queued; waits until the one `ahead` before it is done."""
        if not self._cuda:
            return
        event = torch.cuda.Event(blocking=True)
        event.record()
        self._events.append(event)
        if len(self._events) > self._ahead:
            self._events.popleft().synchronize()
