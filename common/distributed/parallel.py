"""One object for a program: who works with whom, on which files, and how a clip is shared."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from common.distributed.collectives import Group, Traffic, make_group
from common.distributed.process import Process
from common.distributed.sequence_parallel import SequenceParallel
from common.distributed.temporal_halo import RingMemory
from common.distributed.turns import Tensors, in_turns, slice_frames
from common.distributed.verdict import Verdicts
from common.distributed.work_queue import hand_out
from common.logger import get_logger

logger = get_logger(__name__)

Item = TypeVar("Item")
Piece = TypeVar("Piece")


class HasMemory(Protocol):
    """A network that clips go through in slices."""

    def new_memory(self) -> object: ...


class Parallel:
    """Groups of `sp_size` ranks, each working on one clip at a time. In groups of one every verb does nothing special.

    Args:
        process: from `process_group`.
        sp_size: ranks that share a clip.
    Attributes:
        size, own: of this rank's group, and its number in it. leads: does it write the files of its group?
        verdicts: makes one decision of what the ranks of the group find.
        team: for `dit.layout(..., team=...)`; None in a group of one.
    Raises:
        ValueError: `sp_size` does not divide the number of processes.
    """

    def __init__(self, process: Process, sp_size: int = 1) -> None:
        self.process = process
        self.group: Group = make_group(process, sp_size)
        self.size, self.own, self.leads = sp_size, self.group.own, self.group.leads
        self.verdicts = Verdicts(self.group)
        self.team = SequenceParallel(self.group) if sp_size > 1 else None

    @property
    def traffic(self) -> Traffic:
        """What this rank has sent so far."""
        return self.group.traffic

    def agree(self, answer: bool) -> bool:
        """The leader's answer, on every rank of the group: where each might see the file system a moment later."""
        if self.size == 1:
            return answer
        return bool(self.group.broadcast(torch.tensor(answer), 0, "agreement").item())

    def memory(self, vae: HasMemory) -> object:
        """Instead of `vae.new_memory()`, for a clip whose slices go round the group with `in_turns`."""
        return RingMemory(self.group) if self.size > 1 else vae.new_memory()

    def slice_frames(self, split_size: int, factor: int, frames: int | None = None) -> int:
        """How many frames a slice should have when slices go round the group. See `turns.slice_frames`."""
        return slice_frames(self.size, split_size, factor, frames)

    def in_turns(
        self,
        pieces: Iterable[Piece],
        work: Callable[[Piece], Tensor | Tensors],
        *,
        memory: object | None = None,
        length: Callable[[Piece], int] = len,
        skip: Callable[[Piece], None] | None = None,
        everyone: bool = True,
    ) -> Iterator[Tensor | Tensors]:
        """What `work` makes of each piece, in order; each is worked on by one rank. See `turns.in_turns`."""
        if self.size == 1:
            return self._alone(pieces, work)
        return in_turns(self.group, pieces, work, memory=memory, length=length, skip=skip, everyone=everyone)

    def _alone(self, pieces: Iterable[Piece], work: Callable[[Piece], Tensor | Tensors]) -> Iterator[Tensor | Tensors]:
        for number, piece in enumerate(pieces):
            self.process.alive(f"piece {number} of a clip")
            yield work(piece)

    def files(
        self,
        items: Sequence[Item],
        *,
        cost: Callable[[Item], float],
        name: Callable[[Item], str] = str,
        journal: Path | None = None,
    ) -> Iterator[Item]:
        """The items for this rank's group, longest first, from one queue for all groups. See `work_queue.hand_out`."""
        return hand_out(self.group, items, cost=cost, name=name, journal=journal)
