"""Detects steps whose loss or gradient is not finite or too large, without waiting for the device at every step."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from common.distributed.fsdp import min_over_ranks

REMEMBERED = 2000  # latest steps whose samples can be named
NEVER = 2**62


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient is infinite, NaN, or above the limit.

    step: the first such step on any rank.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class NaNGuard:
    """Records on the device which step was the first bad one; `check` reads it.

    Args:
        device: the device of the losses. On the CPU the loop checks after every step, because this costs nothing.
        most_norm: a step with a larger gradient norm is bad as well; None: no limit.
    """

    def __init__(self, device: torch.device | str, most_norm: float | None = None) -> None:
        self.device, self.most_norm = torch.device(device), most_norm
        self.clear()

    def clear(self) -> None:
        """Forget the recorded steps, after a bad one was handled."""
        self._first_bad = torch.full((), NEVER, device=self.device, dtype=torch.long)
        self._names: deque[tuple[int, tuple[str, ...]]] = deque(maxlen=REMEMBERED)

    def record(self, step: int, names: tuple[str, ...], scalars: Mapping[str, Tensor]) -> None:
        """Record the losses and gradient norms of one step (detached scalars), and the names of its samples."""
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
        """Wait for the device, and raise `NonFiniteLoss` if any rank had a bad step. Every rank must call it.

        Call it before weights are stored (a checkpoint, an export), since all weights after a bad step are wrong.
        """
        local = int(self._first_bad.item())
        first = min_over_ranks(local, self.device)
        if first == NEVER:
            return
        if local != first:
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
