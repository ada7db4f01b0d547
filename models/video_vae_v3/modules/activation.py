"""An activation on its way through the inference path, and how a stream of them is cut in time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from common.kernels.norm_statistics import NormStatistics


class Activation:
    """A group of frames whose value is x + bias. It is consumed once.

    `take` hands the tensor over and empties the activation. So a generator that is suspended, or a caller further out,
    may still name the activation, and the memory is free all the same as soon as its consumer is done with it.

    Args:
        x: [B, T, H, W, C]. bias: [C], not yet added. statistics: of x, where the pass that wrote it measured them.
    """

    def __init__(self, x: Tensor, bias: Tensor | None = None, statistics: NormStatistics | None = None) -> None:
        self._x: Tensor | None = x
        self.bias, self.statistics = bias, statistics
        self.shape = x.shape

    @property
    def frames(self) -> int:
        return self.shape[1]

    def take(self) -> Tensor:
        """The tensor x; the activation is empty from now."""
        x, self._x = self._x, None
        assert x is not None, "an activation is consumed once"
        return x

    def split_off(self, frames: int) -> "Activation":
        """The first frames as an activation of their own, which leaves the rest here; both views of one tensor."""
        x, statistics = self.take(), self.statistics
        head = Activation(x[:, :frames], self.bias, statistics and statistics.frames(0, frames))
        self._x, self.statistics = x[:, frames:], statistics and statistics.frames(frames, x.shape[1])
        self.shape = self._x.shape
        return head


def joined(groups: Iterable[Activation]) -> Activation:
    """One after the other in time; all wait for the same bias."""
    groups = list(groups)
    if len(groups) == 1:
        return Activation(groups[0].take(), groups[0].bias, groups[0].statistics)
    return Activation(torch.cat([group.take() for group in groups], 1), groups[0].bias)


def regroup(groups: Iterator[Activation], frames: int | None) -> Iterator[Activation]:
    """The same frames, in groups of this many, each group made when it is asked for; the last may be shorter.

    Args:
        frames: None for all at once.
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
