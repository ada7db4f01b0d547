"""The exchange of tokens between ranks that share a clip's windows, and that of a single process.

Every share holds whole windows with all heads. Tokens change owner only where the cutting into windows changes, between
regular and shifted blocks; text is everywhere and its mean over windows is summed over shares. All verbs have
gradients, for the sum of what the shares compute; shares go backward through the same verbs.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Exchange(Protocol):
    """Moves the tokens of one clip between the shares. A partition is one way to divide the clip into windows,
    given by its number.

    A share's tokens under a partition are those of its windows, in packed order.
    """

    def enter(self, packed: Tensor, partition: int) -> Tensor:
        """All tokens [L, any] -> this share's [L_own, any] under a partition."""

    def move(self, video: Tensor, before: int, after: int) -> Tensor:
        """This share's tokens under one partition -> this share's tokens under another."""

    def leave(self, video: Tensor, partition: int) -> Tensor:
        """This share's tokens [L_own, any] -> all tokens [L, any], on every share."""

    def sum(self, local: Tensor, purpose: str) -> Tensor:
        """A float32 tensor of every share, of one shape -> their sum, the same on every share.

        purpose: its name in the counts of traffic.
        """

    def collect(self, local: Tensor, purpose: str) -> Tensor:
        """A small float32 tensor [...] of every share, of one shape -> [shares, ...], the same on every share."""


class SequenceGroup(Protocol):
    """The ranks that share a clip, seen from one of them.

    size: how many shares; rank: the number of this one, from 0.
    """

    size: int
    rank: int

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> Exchange:
        """owners: for every window partition, [L] which share holds each packed token."""


class SingleProcess:
    """The exchange of a single process, which holds all tokens: nothing moves."""

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
