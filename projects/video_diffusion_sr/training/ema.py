"""Exponential moving average of trained weights, sharded as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.distributed.fsdp import full_state, local_tensors, reshard


class ExponentialMovingAverage:
    """avg <- decay * avg + (1 - decay) * weight, for every trainable parameter of a module, in float32.

    Args:
        module: on its device and sharded.
        decay: per update.
        warmup: use min(decay, (1 + n) / (10 + n)) at update n, so that the first weights decay quickly.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        self.module, self.decay, self.warmup = module, decay, warmup
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        # Collected once: while FSDP has a module gathered, its parameters refer to other tensors.
        self._weights = local_tensors(p.detach() for p in trained.values())
        self._averages = local_tensors(self.average.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the `with` block the module has the averages for weights."""
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
        """The module's whole state with averages for weights, on rank 0's CPU; every rank must call it."""
        return full_state(self.module, self.average)
