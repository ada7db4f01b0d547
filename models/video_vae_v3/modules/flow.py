"""An activation on its way through the fast path."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.kernels.frame_norm import Moments


@dataclass(frozen=True)
class Flow:
    """An activation on its way: its value is x + pending.

    x: [B, T, H, W, C]. pending: [C], a bias not yet added. moments: of x, where the pass that wrote it took them.
    """

    x: Tensor
    pending: Tensor | None = None
    moments: Moments | None = None

    @staticmethod
    def settled(x: Tensor, moments: Moments | None) -> "Flow":
        return Flow(x, None, moments)

    def frames(self, start: int, stop: int) -> "Flow":
        stop = min(stop, self.x.shape[1])
        moments = None if self.moments is None else self.moments.frames(start, stop)
        return Flow(self.x[:, start:stop], self.pending, moments)

    def split(self, frames: int) -> "list[Flow]":
        """Cut in time; one piece where that is enough."""
        total = self.x.shape[1]
        return [self] if total <= frames else [self.frames(start, start + frames) for start in range(0, total, frames)]

    @staticmethod
    def joined(flows: "list[Flow]") -> "Flow":
        """One after the other in time; all wait for the same bias."""
        if len(flows) == 1:
            return flows[0]
        return Flow(torch.cat([flow.x for flow in flows], 1), flows[0].pending)
