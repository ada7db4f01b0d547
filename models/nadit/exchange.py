"""The exchange of tokens between ranks that share a clip, and the exchange of a single process.

A share is what one rank holds: whole windows, with all heads. Tokens move to another rank only between blocks with
different windows (regular and shifted). Text is on every rank, and its mean over windows is summed over ranks. All
methods are differentiable; the gradient is that of the sum of all ranks' losses.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Exchange(Protocol):
    """Moves the tokens of one clip between the ranks that share it.

    A partition is one way to divide the clip into windows, given by its number. The tokens of a rank under a partition
    are those of its windows, in packed order.
    """

    def enter(self, packed: Tensor, partition: int) -> Tensor:
        """Select this rank's tokens under a partition: all tokens [L, any] -> [L_own, any]."""

    def move(self, video: Tensor, before: int, after: int) -> Tensor:
        """Exchange tokens: this rank's tokens under one partition -> this rank's tokens under another."""

    def leave(self, video: Tensor, partition: int) -> Tensor:
        """Gather all tokens on every rank: this rank's tokens [L_own, any] -> [L, any]."""

    def sum(self, local: Tensor, purpose: str) -> Tensor:
        """Sum a float32 tensor over all ranks; every rank gets the result. `purpose` is its name in traffic counts."""

    def collect(self, local: Tensor, purpose: str) -> Tensor:
        """Stack a small float32 tensor [...] of every rank: [ranks, ...], the same on every rank."""


class SequenceGroup(Protocol):
    """The group of ranks that share a clip.

    size: the number of ranks in the group.
    rank: the number of this rank in the group, from 0.
    """

    size: int
    rank: int

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> Exchange:
        """Make the exchange. `owners` has one entry per partition: [L], the rank of each packed token."""


class SingleProcess:
    """The exchange of a single process, which holds all tokens, so nothing is exchanged."""

    def enter(self, packed: Tensor, partition: int) -> Tensor:
        return packed

    def move(self, video: Tensor, before: int, after: int) -> Tensor:
        return video

    def leave(self, video: Tensor, partition: int) -> Tensor:
        return video

    def sum(self, local: Tensor, purpose: str) -> Tensor:
        return local

    def collect(self, local: Tensor, purpose: str) -> Tensor:
        return local[None]
