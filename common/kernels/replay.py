"""Repeated calls with tensors of the same shapes, as CUDA graphs: a small picture is bound by its launches.

A picture of 720p takes the device 50 ms, and its 500 kernels of our own and 2,000 of the library's take a Python thread
longer than that to queue, while other threads compress pictures. A replay queues them all in one call.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.logger import get_logger

logger = get_logger(__name__)

MOST = 8  # calls that are remembered: the networks of two sizes of picture


@dataclass(frozen=True)
class _Captured:
    """A graph, the tensors that it reads, and the one that it writes. function: keeps alive what the kernels read."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor
    function: Callable[..., Tensor]


class ReplayedCalls:
    """Calls of functions of tensors on one CUDA device, in one thread. The same kernels run with and without replay.

    The first calls of a key run as they are, which also compiles and chooses kernels; the next is captured, and
    replayed like all that follow. Where capturing fails, for want of memory for example, calls run as they are.

    Args:
        device: of all tensors.
        most: keys that are remembered; the one that was used longest ago goes first.

    Attributes:
        nbytes: device memory that the graphs keep for themselves, which PyTorch does not count as allocated.
    """

    def __init__(self, device: torch.device, most: int = MOST) -> None:
        self._device, self._most = device, most
        self._known: OrderedDict[Hashable, _Captured | int] = OrderedDict()  # or how often it was called
        self._pool: Any = None  # a handle, whose type differs between releases of torch
        self._failed = False
        self.nbytes = 0

    def __call__(self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, plain: int = 1) -> Tensor:
        """`function(*inputs)`, a tensor of its own.

        Args:
            key: equal only for calls that launch the same kernels on other numbers of `inputs`, whose shapes need not
                be part of it. Everything else that the function reads keeps its place in memory between such calls.
            plain: calls of a key before one is captured. Graphs share their memory, but one whose tensors are larger
                than those of graphs before it finds no place among them: what takes most is to be captured first.
        """
        if self._failed:
            return function(*inputs)
        key = (key, *((x.shape, x.dtype) for x in inputs))
        known = self._known.get(key, 0)
        if isinstance(known, int) and known < plain:
            self._remember(key, known + 1)
            return function(*inputs)
        captured = self._capture(function, inputs) if isinstance(known, int) else known
        if captured is None:
            return function(*inputs)
        self._remember(key, captured)
        for mine, given in zip(captured.inputs, inputs, strict=True):
            mine.copy_(given)
        captured.graph.replay()
        return captured.output.clone()  # the next replay of any of these graphs may write over it

    def clear(self) -> None:
        """Forget all calls, and give back the memory of their graphs: what they read is about to move."""
        self._known.clear()
        self._pool, self.nbytes = None, 0

    def _remember(self, key: Hashable, captured: _Captured | int) -> None:
        self._known[key] = captured
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def _capture(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> _Captured | None:
        """Record the function's kernels; None where that cannot be done, now and from now on."""
        try:
            mine = tuple(x.clone() for x in inputs)
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            # Other threads go on: they wait for copies to the host, which an exclusive capture would refuse.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = function(*mine)
        except RuntimeError as error:  # out of memory is one
            logger.debug("pictures are computed without CUDA graphs: %s", error)
            self._failed = True
            self.clear()
            return None
        segments = torch.cuda.memory_snapshot(self._pool)
        self.nbytes = sum(segment["total_size"] - segment["allocated_size"] for segment in segments)
        torch.cuda.reset_peak_memory_stats(self._device)  # else what is in `nbytes` now would be counted twice
        return _Captured(graph, mine, output, function)
