"""Activations of the inference path, and the regrouping of a stream of them in time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from common.kernels.norm_statistics import NormStatistics


class Activation:
    """A group of frames with the value x + bias, which can be consumed once.

    `take` returns the tensor and drops the activation's reference to it. So its memory is freed when the consumer is
    done, even if a suspended generator or an outer caller still references the activation.

    Args:
        x: [B, T, H, W, C].
        bias: [C], deferred: the next pass over x adds it. None: no bias.
        statistics: those of x without the bias, if the pass that wrote x measured them.
    """

    def __init__(self, x: Tensor, bias: Tensor | None = None, statistics: NormStatistics | None = None) -> None:
        self._x: Tensor | None = x
        self.bias, self.statistics = bias, statistics
        self.shape = x.shape

    @property
    def frames(self) -> int:
        return self.shape[1]

    def take(self) -> Tensor:
        """Return the tensor x and leave the activation empty."""
        x, self._x = self._x, None
        assert x is not None, "an activation is consumed once"
        return x

    def split_off(self, frames: int) -> "Activation":
        """Move the first frames to a new activation and keep the rest here; both are views of one tensor."""
        x, statistics = self.take(), self.statistics
        head = Activation(x[:, :frames], self.bias, statistics and statistics.frames(0, frames))
        self._x, self.statistics = x[:, frames:], statistics and statistics.frames(frames, x.shape[1])
        self.shape = self._x.shape
        return head


def joined(groups: Iterable[Activation]) -> Activation:
    """Concatenate groups in time, [B, T, H, W, C]; all must have the same deferred bias."""
    groups = list(groups)
    if len(groups) == 1:
        return Activation(groups[0].take(), groups[0].bias, groups[0].statistics)
    return Activation(torch.cat([group.take() for group in groups], 1), groups[0].bias)


def regroup(groups: Iterator[Activation], frames: int | None) -> Iterator[Activation]:
    """Regroup a stream of frames lazily: each new group is made when it is requested.

    Args:
        frames: number of frames per group; the last group may be shorter. None: one group of all frames.
    """
    waiting: list[Activation] = []
    for group in groups:
        while frames is not None and group.frames > (missing := frames - sum(part.frames for part in waiting)):
            waiting.append(group.split_off(missing))
            yield joined(waiting)
            waiting.clear()
        waiting.append(group)
        if frames is not None and sum(part.frames for part in waiting) == frames:
            yield joined(waiting)
            waiting.clear()
    if waiting:
        yield joined(waiting)
