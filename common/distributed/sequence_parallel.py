"""Sequence parallelism: distributes the transformer's windows over a group of ranks (`models/nadit/exchange.py`)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.distributed import adjoint
from common.distributed.collectives import Group
from common.kernels.transfer import to_device


class SequenceParallel:
    """The ranks that share a clip, for `dit.layout(..., sequence_group=...)`."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.size, self.rank = group.size, group.rank

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> "TokenExchange":
        """Make the exchange. `owners` has one entry per partition: [L], the rank (in the group) of each token."""
        return TokenExchange(self.group, owners, device)


class TokenExchange:
    """Moves tokens between ranks when the window partition changes. The routes are computed once per clip."""

    def __init__(self, group: Group, owners: Sequence[Tensor], device: torch.device | str) -> None:
        self.group = group
        self._owned = [to_device((owner == group.rank).nonzero().squeeze(1), device) for owner in owners]
        self._counts = [torch.bincount(owner, minlength=group.size).tolist() for owner in owners]
        # Gathered tokens are ordered by rank. This is the index of each packed token among them.
        self._packed = [to_device(owner.argsort(stable=True).argsort(), device) for owner in owners]
        self._routes = {
            (a, b): Route(group, owners[a], owners[b], device)
            for a in range(len(owners))
            for b in range(len(owners))
            if a != b
        }

    def enter(self, packed: Tensor, partition: int) -> Tensor:
        """Select this rank's tokens from all tokens [L, any]. Nothing is sent."""
        return packed.index_select(0, self._owned[partition])

    def move(self, video: Tensor, before: int, after: int) -> Tensor:
        """Exchange this rank's tokens of one partition for those of another. Tokens that stay are not sent."""
        if before == after:
            return video
        return self._routes[before, after].exchange(video)

    def leave(self, video: Tensor, partition: int) -> Tensor:
        """Gather all tokens on every rank: [L_own, any] -> [L, any]."""
        rows = adjoint.gather_rows(self.group, video, self._counts[partition], "result of the transformer")
        return rows.index_select(0, self._packed[partition])

    def sum(self, local: Tensor, purpose: str) -> Tensor:
        """Sum a float32 tensor over all ranks."""
        return adjoint.total(self.group, local, purpose)

    def collect(self, local: Tensor, purpose: str) -> Tensor:
        """Stack a small float32 tensor [...] of every rank: [ranks, ...]. It is computed as a sum."""
        others = local.new_zeros(1, *local.shape)
        places = [local[None] if rank == self.group.rank else others for rank in range(self.group.size)]
        return self.sum(torch.cat(places), purpose)


class Route:
    """The tokens that one rank sends and receives when the window partition changes.

    Args:
        before, after: [L], the rank of each packed token under the old and the new partition.
    """

    def __init__(self, group: Group, before: Tensor, after: Tensor, device: torch.device | str) -> None:
        self.group = group
        leaving, arriving = after[before == group.rank], before[after == group.rank]
        self.send = torch.bincount(leaving, minlength=group.size).tolist()
        self.receive = torch.bincount(arriving, minlength=group.size).tolist()
        # Sorted by the other rank and then by packed order, so that both sides agree without communication.
        self._pick = to_device(leaving.argsort(stable=True), device)
        self._place = to_device(arriving.argsort(stable=True).argsort(), device)

    def exchange(self, video: Tensor) -> Tensor:
        """Exchange the tokens: [tokens of this rank before, C] -> [tokens of this rank after, C]."""
        rows = video.index_select(0, self._pick)
        return adjoint.exchange(self.group, rows, self.send, self.receive, "tokens").index_select(0, self._place)
