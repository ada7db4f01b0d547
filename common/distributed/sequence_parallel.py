"""Sequence parallelism: the transformer's tokens, distributed over the ranks of a group in whole windows, see
`models/nadit/exchange.py`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.distributed import adjoint
from common.distributed.collectives import Group
from common.kernels.transfer import to_device


class SequenceParallel:
    """The ranks that share a clip, in the form for the transformer's layout: `dit.layout(..., sequence_group=...)`."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.size, self.rank = group.size, group.rank

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> "TokenExchange":
        """owners: for every window partition, [L] the number (in the group) that holds each packed token."""
        return TokenExchange(self.group, owners, device)


class TokenExchange:
    """Moves tokens between ranks when the window partition changes; planned once a clip."""

    def __init__(self, group: Group, owners: Sequence[Tensor], device: torch.device | str) -> None:
        self.group = group
        self._owned = [to_device((owner == group.rank).nonzero().squeeze(1), device) for owner in owners]
        self._counts = [torch.bincount(owner, minlength=group.size).tolist() for owner in owners]
        # Gathered tokens are ordered by rank: this is the index of each packed token among them.
        self._packed = [to_device(owner.argsort(stable=True).argsort(), device) for owner in owners]
        self._routes = {
            (a, b): Route(group, owners[a], owners[b], device)
            for a in range(len(owners))
            for b in range(len(owners))
            if a != b
        }

    def enter(self, packed: Tensor, partition: int) -> Tensor:
        """All tokens [L, any] -> this rank's; every rank has them all, so nothing is sent."""
        return packed.index_select(0, self._owned[partition])

    def move(self, video: Tensor, before: int, after: int) -> Tensor:
        """This rank's tokens under one partition -> under another. Tokens that stay are not sent."""
        if before == after:
            return video
        return self._routes[before, after].exchange(video)

    def leave(self, video: Tensor, partition: int) -> Tensor:
        """This rank's tokens [L_own, any] -> all [L, any], on every rank."""
        rows = adjoint.gather_rows(self.group, video, self._counts[partition], "result of the transformer")
        return rows.index_select(0, self._packed[partition])

    def sum(self, local: Tensor, purpose: str) -> Tensor:
        """A float32 tensor of every rank -> their sum."""
        return adjoint.total(self.group, local, purpose)

    def collect(self, local: Tensor, purpose: str) -> Tensor:
        """A small float32 tensor [...] of every rank -> [ranks, ...], as a sum of tensors with one part each."""
        others = local.new_zeros(1, *local.shape)
        places = [local[None] if rank == self.group.rank else others for rank in range(self.group.size)]
        return self.sum(torch.cat(places), purpose)


class Route:
    """How tokens move from their owners under one window partition to those under another, for one rank.

    Args:
        before, after: [L] the owner of each packed token.
    """

    def __init__(self, group: Group, before: Tensor, after: Tensor, device: torch.device | str) -> None:
        self.group = group
        leaving, arriving = after[before == group.rank], before[after == group.rank]
        self.send = torch.bincount(leaving, minlength=group.size).tolist()
        self.receive = torch.bincount(arriving, minlength=group.size).tolist()
        # Sorted by the other rank, then by packed order, so that both sides agree without communication.
        self._pick = to_device(leaving.argsort(stable=True), device)
        self._place = to_device(arriving.argsort(stable=True).argsort(), device)

    def exchange(self, video: Tensor) -> Tensor:
        """[tokens of this rank before, C] -> [tokens of this rank after, C]."""
        rows = video.index_select(0, self._pick)
        return adjoint.exchange(self.group, rows, self.send, self.receive, "tokens").index_select(0, self._place)
