"""The device and the stream that are current in a thread: kernels are launched, and tensors made, on those.

A new thread begins with the first device and its default stream, whatever its creator uses.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def stream_of(device: torch.device) -> torch.cuda.Stream | None:
    """The stream in which this thread queues work for a CUDA device; None for another device."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def enter_stream(stream: torch.cuda.Stream | None) -> None:
    """Make a stream, and its device, the current ones of this thread; None: change nothing.

    A thread that makes tensors for its creator needs this: between two streams neither waits for the other, and what
    the thread makes could be read before it is there.
    """
    if stream is not None:
        torch.cuda.set_stream(stream)


def inside(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which a CUDA device is the current one of this thread; without effect for another device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def steps_inside(device: torch.device, steps: Generator[Tensor]) -> Generator[Tensor]:
    """Yield what `steps` yields. The device is current while it computes and not between its results.

    Any thread may take the results: Triton launches kernels on the current device, not on that of their tensors.
    """
    try:
        while True:
            with inside(device):
                try:
                    made = next(steps)
                except StopIteration:
                    return
            yield made
    finally:
        with inside(device):
            steps.close()
