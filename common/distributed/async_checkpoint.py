"""Checkpoints that are written while training goes on: copied to the host at once, to disk by a thread."""

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter

from common.distributed.checkpoint import begin_checkpoint, complete_checkpoint, quiet
from common.distributed.fsdp import any_rank, world_size


class AsyncCheckpoints:
    """Writes one checkpoint at a time; valid once `finish` or `poll` has completed it. Every rank makes the same calls.

    Args:
        folder: of all checkpoints of this run.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        self.folder, self.keep = Path(folder), keep
        # A separate group: collectives of the writing thread must not mix with those of training.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        if self._group is None:  # the writing thread runs on after `quiet`
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        self._pending: tuple[Future[Any], int, dict[str, Any]] | None = None

    def start(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Copy the tensors to the host (blocking), write them in a thread. Completes the checkpoint before, first."""
        self.finish()
        unfinished = begin_checkpoint(self.folder, step)
        with quiet():
            future = dcp.async_save(
                dict(tensors),
                storage_writer=FileSystemWriter(unfinished),
                process_group=self._group,
                no_dist=self._group is None,
            )
        assert isinstance(future, Future)  # of the default checkpointer; another kind returns two
        self._pending = future, step, dict(meta)

    def poll(self, device: torch.device | str) -> None:
        """Complete the pending checkpoint if all ranks have written theirs; does not wait."""
        if self._pending is not None and not any_rank(not self._pending[0].done(), device):
            self.finish()

    def finish(self) -> None:
        """Wait for the pending checkpoint and complete it; no effect without one.

        Raises:
            Exception: what went wrong while writing; the checkpoint is not completed then.
        """
        if self._pending is None:
            return
        future, step, meta = self._pending
        self._pending = None
        future.result()
        complete_checkpoint(self.folder, step, meta, self.keep)
