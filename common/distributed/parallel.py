"""One object for a program: the groups of ranks, their files, and how a group shares a clip."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from common.distributed.collectives import Group, Traffic, make_group
from common.distributed.outcomes import Outcomes
from common.distributed.process import Process
from common.distributed.row_parallel import ClipRows, UnshardedClip
from common.distributed.sequence_parallel import SequenceParallel
from common.distributed.work_queue import queued_items
from common.logger import get_logger

logger = get_logger(__name__)

Item = TypeVar("Item")


class Parallel:
    """Groups of `sp_size` ranks, each working on one clip at a time. In groups of one there is no communication.

    Args:
        process: from `process_group`.
        sp_size: ranks that share a clip.
    Attributes:
        size: of this rank's group. rank: its number in the group. is_leader: whether it writes the files of its group.
        outcomes: exchanges them, so that all ranks of the group decide alike.
        sequence_group: for `dit.layout(..., sequence_group=...)`; None in a group of one.
    Raises:
        ValueError: `sp_size` does not divide the number of processes.
    """

    def __init__(self, process: Process, sp_size: int = 1) -> None:
        self.process = process
        self.group: Group = make_group(process, sp_size)
        self.size, self.rank, self.is_leader = sp_size, self.group.rank, self.group.is_leader
        self.outcomes = Outcomes(self.group)
        self.sequence_group = SequenceParallel(self.group) if sp_size > 1 else None

    @property
    def traffic(self) -> Traffic:
        """Bytes that this rank has sent so far."""
        return self.group.traffic

    def rows(self, latent_rows: int) -> ClipRows | UnshardedClip:
        """How this rank's group shares the pictures of a clip with this many latent rows."""
        if self.size == 1:
            return UnshardedClip()
        if latent_rows < self.size and self.is_leader:
            idle = self.size - latent_rows
            logger.info("a picture of %d latent rows: %d of %d ranks idle in the VAE", latent_rows, idle, self.size)
        return ClipRows(self.group, latent_rows)

    def files(
        self,
        items: Sequence[Item],
        *,
        cost: Callable[[Item], float],
        name: Callable[[Item], str] = str,
        journal: Path | None = None,
    ) -> Iterator[Item]:
        """The items for this rank's group, longest first, from one queue for all groups: `work_queue.queued_items`."""
        return queued_items(self.group, items, cost=cost, name=name, journal=journal)
