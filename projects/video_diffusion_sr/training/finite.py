"""Stops a run whose loss is no number, and says which samples did it, without asking the device at every step."""

from collections import deque

import torch
from torch import Tensor

from common.distributed.fsdp import any_rank

REMEMBERED = 2000  # steps whose samples can still be named


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient was infinite or no number."""


class FiniteWatch:
    """Remembers on the device which step was the first with a loss that is not finite; `check` reads it.

    Args:
        device: where the losses are. On the CPU, where it costs nothing, every `record` checks at once.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._first_bad = torch.full((), -1, device=self.device, dtype=torch.long)
        self._names: deque[tuple[int, tuple[str, ...]]] = deque(maxlen=REMEMBERED)

    def record(self, step: int, names: tuple[str, ...], scalars: list[Tensor]) -> None:
        """Losses and norms of one step (detached scalars), and the samples they come from."""
        self._names.append((step, names))
        good = torch.stack([s.detach().float().reshape(()) for s in scalars]).isfinite().all()
        fresh = (self._first_bad < 0) & ~good
        self._first_bad = torch.where(fresh, step, self._first_bad)

    def check(self) -> None:
        """Wait for the device and raise `NonFiniteLoss` if any rank saw one. Every rank must ask.

        Called before anything that outlives the step (a checkpoint, an export): what follows a bad step is spoilt.
        """
        first = int(self._first_bad.item())
        if not any_rank(first >= 0, self.device):
            return
        if first < 0:
            raise NonFiniteLoss("another rank had a loss that is not finite; its message names the samples")
        names = next((n for step, n in self._names if step == first), ("samples of a step too long ago to name",))
        raise NonFiniteLoss(
            f"step {first}: a loss or gradient is not finite. Samples of this step: {'; '.join(names)}. No checkpoint "
            "was written after it; look at these samples, lower the learning rate or set optimizer.clip, and resume"
        )
