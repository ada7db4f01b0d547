"""Replays a player's update as a CUDA graph: kernel launches limit small networks, and a replay is one launch.

The first updates for each batch shape run eagerly, which also allocates the optimiser's state. The next update is
captured with copies of its inputs; later updates copy their inputs into these and replay the graph. A captured update
must not wait for the device or depend on a number that changes on the host. Therefore the learning rate is a tensor,
and random numbers come from one generator, which is registered with the graph and seeded before each replay.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

WARM = 2  # updates of each shape before one is captured


class Copied(Protocol):
    """The interface of prepared batches whose updates are captured (see `Stage.prepare`)."""

    @property
    def shape_key(self) -> Hashable:
        """A key that is equal for batches that run the same kernels on the same shapes."""

    def clone(self) -> Self:
        """A copy with its own tensors."""

    def copy_(self, other: Self) -> None:
        """Copy the values of a batch of the same shapes."""


@dataclass(frozen=True)
class Captured:
    """A graph, the inputs that it reads, and the scalars that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Copied
    scalars: dict[str, Tensor]


class GraphedUpdates:
    """Updates of one player on one CUDA device.

    Args:
        update: a function of a prepared batch and a generator that does everything from the losses to the optimiser's
            step, and returns scalars.
        parameters: the parameters whose gradients the update computes.
        device: the CUDA device of the networks and batches.
    """

    def __init__(
        self,
        update: Callable[[Copied, torch.Generator], dict[str, Tensor]],
        parameters: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        self.update, self.parameters = update, parameters
        self.generator = torch.Generator(device)
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.updates: Counter[Hashable] = Counter()
        self.captured: dict[Hashable, Captured] = {}

    def __call__(self, prepared: Copied, seed: int) -> dict[str, Tensor]:
        """One update. The next update of this shape overwrites the scalars."""
        key = prepared.shape_key
        self.generator.manual_seed(seed)
        self.updates[key] += 1
        if self.updates[key] <= WARM:
            return self._plain(prepared)
        if key not in self.captured:
            self.captured[key] = self._capture(prepared)
            self.generator.manual_seed(seed)
        captured = self.captured[key]
        captured.inputs.copy_(prepared)
        captured.graph.replay()
        return captured.scalars

    def _plain(self, prepared: Copied) -> dict[str, Tensor]:
        """An eager update, on the capture stream because autograd reuses the stream of the forward pass."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self._clear_gradients()
            scalars = self.update(prepared, self.generator)
            self._clear_gradients()
        torch.cuda.current_stream().wait_stream(self.stream)
        return scalars

    def _capture(self, prepared: Copied) -> Captured:
        """Capture an update, which records its kernels without running them."""
        inputs = prepared.clone()
        self._clear_gradients()  # so that the graph allocates its own
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            scalars = self.update(inputs, self.generator)
        return Captured(graph, inputs, scalars)

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
