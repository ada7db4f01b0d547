"""Checks the networks' results for NaN and infinite values, which would be written as black pixels.

Each check is one pass over a result on its device. Its outcome is read when the pixels are copied to the host anyway.
"""

import torch
from torch import Tensor

from projects.video_diffusion_sr.file_errors import NotFiniteError

ADVICE = (
    "try --dtype bfloat16 or float32 if another was chosen; if it stays, the weights are damaged or do not belong to "
    "this model: fetch them again, and leave --lora out"
)


class FiniteGuard:
    """Checks the results of one clip, stage by stage. Only `check` waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Begin a new clip."""
        self._sums.clear()

    def watch(self, stage: str, result: Tensor) -> Tensor:
        """Check a result, which `stage` has computed, and return it unchanged."""
        # The sum is finite only if all values are, and it needs no second tensor of the result's size.
        total = result.sum(dtype=torch.float32) * 0
        before = self._sums.get(stage)
        self._sums[stage] = total if before is None else before.to(total.device) + total
        return result

    def marks(self) -> tuple[tuple[str, ...], Tensor]:
        """(names of the stages so far, a device tensor with a number for each, 0 if its results were finite)."""
        device = next(iter(self._sums.values())).device
        return tuple(self._sums), torch.stack([total.to(device) for total in self._sums.values()])

    def check(self, name: str) -> None:
        """Wait for the device, and call `check_marks` for all stages so far.

        Args:
            name: name of the file, for the message.
        """
        if self._sums:
            stages, marks = self.marks()
            check_marks(name, stages, marks.cpu())


def check_marks(name: str, stages: tuple[str, ...], marks: Tensor) -> None:
    """Raise NotFiniteError, with the first stage of which the mark is not 0, unless all marks are 0."""
    for stage, mark in zip(stages, marks.tolist(), strict=True):
        if mark != 0:
            raise NotFiniteError(f"{name}: {stage} returned values that are not finite; {ADVICE}")
