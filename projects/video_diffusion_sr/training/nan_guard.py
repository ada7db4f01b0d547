"""Finds steps whose loss or gradient is no number or out of all proportion, without asking the device at every step."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from common.distributed.fsdp import least_over_ranks

REMEMBERED = 2000  # steps whose samples can still be named
NEVER = 2**62


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient was infinite, no number, or above the limit.

    step: the first such step on any rank.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class NaNGuard:
    """Remembers on the device which step was the first bad one; `check` reads it.

    Args:
        device: where the losses are. On the CPU, where it costs nothing, the loop checks after every step.
        most_norm: a gradient norm above this is bad, too; None: none is.
    """

    def __init__(self, device: torch.device | str, most_norm: float | None = None) -> None:
        self.device, self.most_norm = torch.device(device), most_norm
        self.clear()

    def clear(self) -> None:
        """Start anew, after a bad step was dealt with."""
        self._first_bad = torch.full((), NEVER, device=self.device, dtype=torch.long)
        self._names: deque[tuple[int, tuple[str, ...]]] = deque(maxlen=REMEMBERED)

    def record(self, step: int, names: tuple[str, ...], scalars: Mapping[str, Tensor]) -> None:
        """Losses and norms of one step (detached scalars), and the samples they come from."""
        self._names.append((step, names))
        if not scalars:
            return
        values = torch.stack([s.detach().float().reshape(()) for s in scalars.values()])
        good = values.isfinite().all()
        if self.most_norm is not None:
            norms = [i for i, name in enumerate(scalars) if name.endswith("gradient_norm")]
            good = good & (values[norms] <= self.most_norm).all()
        fresh = (self._first_bad == NEVER) & ~good
        self._first_bad = torch.where(fresh, step, self._first_bad)

    def check(self) -> None:
        """Wait for the device and raise `NonFiniteLoss` if any rank saw a bad step. Every rank must ask.

        Called before anything that outlives the step (a checkpoint, an export): what follows a bad step is spoilt.
        """
        own = int(self._first_bad.item())
        first = least_over_ranks(own, self.device)
        if first == NEVER:
            return
        if own != first:
            raise NonFiniteLoss(
                first, f"step {first}: another rank had a loss that is not finite; it names the samples"
            )
        names = next((n for step, n in self._names if step == first), ("samples of a step too long ago to name",))
        limit = "" if self.most_norm is None else f", or its norm is above {self.most_norm:g}"
        raise NonFiniteLoss(
            first,
            f"step {first}: a loss or gradient is not finite{limit}. Samples of this step: {'; '.join(names)}. No "
            "checkpoint was written after it; look at these samples, lower the learning rate or set optimizer.clip, "
            "and resume; bad_steps.most lets a run leave such steps out by itself",
        )
