"""Replays repeated calls with tensors of the same shapes as CUDA graphs, since launches limit the speed for pictures.

The device computes a 720p picture in 50 ms. Python needs longer to launch its 500 Triton kernels and 2,000 library
kernels, while other threads compress pictures. A replay launches all of them in one call.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.logger import get_logger

logger = get_logger(__name__)

MOST = 8  # keys in the cache: enough for the networks of two sizes of picture


@dataclass(frozen=True)
class _Captured:
    """A captured call.

    graph: the CUDA graph.
    inputs: the tensors that it reads.
    output: the tensor that it writes.
    function: the captured function, referenced to keep alive the tensors that its kernels read.
    """

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor
    function: Callable[..., Tensor]


class ReplayedCalls:
    """Calls functions of tensors on one CUDA device, from one thread. The same kernels run with and without replay.

    The first calls of a key run normally, which also compiles and selects kernels. The next call is captured as a
    graph, and it and all later ones replay the graph. If a capture fails, for lack of memory for example, this and all
    later calls run normally.

    Args:
        device: the device of all tensors.
        most: number of keys in the cache; the least recently used one is evicted.

    Attributes:
        nbytes: device memory that the graphs reserve, in bytes, which PyTorch does not count as allocated.
    """

    def __init__(self, device: torch.device, most: int = MOST) -> None:
        self._device, self._most = device, most
        self._known: OrderedDict[Hashable, _Captured | int] = OrderedDict()  # int: number of normal calls so far
        self._pool: Any = None  # a handle, whose type differs between releases of torch
        self._failed = False
        self.nbytes = 0

    def __call__(self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, plain: int = 1) -> Tensor:
        """`function(*inputs)`, in a tensor that later calls do not overwrite.

        Args:
            key: equal only for calls that launch the same kernels and differ in the values of `inputs` alone. Shapes
                and dtypes of `inputs` are added to it. All other tensors that the function reads must keep their
                addresses between calls with equal keys.
            plain: number of normal calls of a key before one is captured. Graphs share a memory pool, but a graph
                cannot reuse the memory of earlier graphs whose tensors are smaller. So capture the call that takes
                most memory first.
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
        """Drop all graphs and release their memory. Call it before tensors that they read are moved."""
        self._known.clear()
        self._pool, self.nbytes = None, 0

    def _remember(self, key: Hashable, captured: _Captured | int) -> None:
        self._known[key] = captured
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def _capture(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> _Captured | None:
        """Capture the function's kernels. If that fails, return None and disable replay for all later calls."""
        stream = torch.cuda.current_stream(self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            mine = tuple(x.clone() for x in inputs)
            graph = torch.cuda.CUDAGraph()
            # Thread-local, because other threads wait for copies to the host, which a global capture would forbid.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = function(*mine)
        except RuntimeError as error:  # out of memory is one
            logger.debug("pictures are computed without CUDA graphs: %s", error)
            _leave_capture(stream, self._pool)
            self._failed = True
            self.clear()
            return None
        segments = torch.cuda.memory_snapshot(self._pool)
        self.nbytes = sum(segment["total_size"] - segment["allocated_size"] for segment in segments)
        torch.cuda.reset_peak_memory_stats(self._device)  # otherwise the memory in `nbytes` would be counted twice
        return _Captured(graph, mine, output, function)


def _leave_capture(stream: torch.cuda.Stream, pool: Any) -> None:
    """Undo the beginning of a capture whose end failed; torch (2.11) then skips the rest of the end.

    Otherwise the thread stays in the capture's stream, the allocator never returns cached memory to the device, and
    random numbers on the device fail, also for a program that this library is a part of. Graphs of that program that
    draw random numbers keep the generator's state of before.

    Args:
        stream: the current stream before the capture.
        pool: the pool of the capture.
    """
    torch.cuda.set_stream(stream)
    with suppress(RuntimeError, AttributeError):  # the capture ended after all, or this torch has no such functions
        torch._C._cuda_endAllocateToPool(stream.device_index, pool)
        torch._C._cuda_releasePool(stream.device_index, pool)
    generator = torch.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(generator.clone_state())  # a new state is not being captured
