"""`Parallel`, the object through which programs use groups of ranks, their queue of files, and shared clips."""

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
    """Divides the ranks of a job into groups of `sp_size`, each of which works on one clip at a time.

    In a group of one rank there is no communication.

    Args:
        process: the process, from `process_group`.
        sp_size: number of ranks that share a clip.
    Attributes:
        size: number of ranks in this rank's group.
        rank: number of this rank in its group.
        is_leader: whether this rank writes the files of its group.
        outcomes: exchanges them, so that all ranks of the group decide alike.
        sequence_group: the argument of `dit.layout(..., sequence_group=...)`; None in a group of one.
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
        """The bytes that this rank has sent so far."""
        return self.group.traffic

    def rows(self, latent_rows: int) -> ClipRows | UnshardedClip:
        """The row blocks of this rank's group, for a clip with this number of latent rows."""
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
        """Yield the items for this rank's group, longest first, from the queue of all groups (`queued_items`)."""
        return queued_items(self.group, items, cost=cost, name=name, journal=journal)
