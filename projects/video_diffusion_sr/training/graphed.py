"""A player's turn as CUDA graphs: small networks are bound by the launches of kernels, and a replay is one launch.

The first turns of each shape run as they are, which also allocates the optimiser's state; then the turn is captured on
copies of its inputs, and from then on these are filled and the graph is replayed. Nothing in a captured turn may ask
the device or depend on a number that changes on the host: the learning rate is a tensor, draws come from one generator
that is registered with the graph and seeded before each replay.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

WARM = 2  # turns of each shape before it is captured


class Copied(Protocol):
    """What a stage prepares, if its turns are to be captured."""

    @property
    def shape_key(self) -> Hashable:
        """Equal for batches that run the same kernels on the same shapes."""

    def clone(self) -> Self:
        """With tensors of its own."""

    def copy_(self, other: Self) -> None:
        """Take over another's values; the shapes are the same."""


@dataclass(frozen=True)
class Captured:
    """A graph, the inputs that it reads and the scalars that it leaves."""

    graph: torch.cuda.CUDAGraph
    inputs: Copied
    scalars: dict[str, Tensor]


class GraphedUpdates:
    """Turns of one player on one CUDA device.

    Args:
        update: everything from losses to the optimiser's step, given a prepared batch and draws; returns scalars.
        parameters: whose gradients the turn makes.
        device: of all of it.
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
        """One turn; the scalars are overwritten by the next turn of this shape."""
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
        """On a stream of its own, as capturing is: autograd remembers on which stream a gradient was made."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self._forget_gradients()
            scalars = self.update(prepared, self.generator)
            self._forget_gradients()
        torch.cuda.current_stream().wait_stream(self.stream)
        return scalars

    def _capture(self, prepared: Copied) -> Captured:
        """Nothing is computed yet: a captured turn only notes down its kernels."""
        inputs = prepared.clone()
        self._forget_gradients()  # so that the graph's own are made inside of it
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            scalars = self.update(inputs, self.generator)
        return Captured(graph, inputs, scalars)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
