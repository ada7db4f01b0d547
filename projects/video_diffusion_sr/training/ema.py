"""Exponential moving average (EMA) of trained weights, sharded like the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.distributed.fsdp import full_state, local_tensors, reshard


class ExponentialMovingAverage:
    """avg <- decay * avg + (1 - decay) * weight, for every trainable parameter of a module, in float32.

    Args:
        module: a module that is already on its device and sharded.
        decay: the decay per update, in [0, 1).
        warmup: use min(decay, (1 + n) / (10 + n)) at update n, so that the first weights decay quickly.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        self.module, self.decay, self.warmup = module, decay, warmup
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        # Collected once, because the parameters of a module refer to other tensors while FSDP has it gathered.
        self._weights = local_tensors(p.detach() for p in trained.values())
        self._averages = local_tensors(self.average.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after update number `step` of the module, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the module's weights are the averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        reshard(self.module)
        kept = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._averages)
        torch._foreach_copy_(self._averages, kept)

    def full_state(self) -> dict[str, Tensor]:
        """The module's full state dict with averages as weights, on the CPU of rank 0. Every rank must call it."""
        return full_state(self.module, self.average)
