"""Are the networks' results numbers? A value that is NaN or infinite would be written as black.

One pass over a result on its device; the answers are read when the pixels are copied to the host anyway.
"""

import torch
from torch import Tensor

from projects.video_diffusion_sr.file_errors import NotFiniteError

ADVICE = (
    "try --dtype bfloat16 or float32 if another was chosen; if it stays, the weights are damaged or do not belong to "
    "this model: fetch them again, and leave --lora out"
)


class FiniteGuard:
    """Watches the results of one clip, stage by stage. Nothing waits for the device before `check`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def begin(self) -> None:
        """A new clip."""
        self._sums.clear()

    def watch(self, stage: str, result: Tensor) -> Tensor:
        """The result itself; `stage` names what computed it."""
        # A sum is finite only if every value is, and needs no second tensor of the result's size.
        total = result.sum(dtype=torch.float32) * 0
        before = self._sums.get(stage)
        self._sums[stage] = total if before is None else before.to(total.device) + total
        return result

    def marks(self) -> tuple[tuple[str, ...], Tensor]:
        """(stages so far, a number for each that is 0 where its results were finite), still on the device."""
        device = next(iter(self._sums.values())).device
        return tuple(self._sums), torch.stack([total.to(device) for total in self._sums.values()])

    def check(self, name: str) -> None:
        """`check_marks` of everything so far; waits for the device.

        Args:
            name: of the file.
        """
        if self._sums:
            stages, marks = self.marks()
            check_marks(name, stages, marks.cpu())


def check_marks(name: str, stages: tuple[str, ...], marks: Tensor) -> None:
    """NotFiniteError, with the first stage that went wrong, unless every mark is 0."""
    for stage, mark in zip(stages, marks.tolist(), strict=True):
        if mark != 0:
            raise NotFiniteError(f"{name}: {stage} returned values that are not finite; {ADVICE}")
