"""Asynchronous checkpoints: copies tensors to the host at once, and writes them in a thread during training."""

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
    """Writes one checkpoint at a time. It is valid after `finish` or `poll`. Every rank must make the same calls.

    Args:
        folder: the folder of all checkpoints of this run.
        keep: number of newest checkpoints that are kept.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        self.folder, self.keep = Path(folder), keep
        # A separate group: collectives of the writing thread must not mix with those of training.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        if self._group is None:  # the writing thread is still running after `quiet`
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        self._pending: tuple[Future[Any], int, dict[str, Any]] | None = None

    def start(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Complete the previous checkpoint, copy the tensors to the host (blocking), and write them in a thread."""
        self.finish()
        unfinished = begin_checkpoint(self.folder, step)
        with quiet():
            future = dcp.async_save(
                dict(tensors),
                storage_writer=FileSystemWriter(unfinished),
                process_group=self._group,
                no_dist=self._group is None,
            )
        assert isinstance(future, Future)  # the default checkpointer returns one; another kind returns two
        self._pending = future, step, dict(meta)

    def poll(self, device: torch.device | str) -> None:
        """Complete the pending checkpoint if all ranks have written it. Does not wait."""
        if self._pending is not None and not any_rank(not self._pending[0].done(), device):
            self.finish()

    def finish(self) -> None:
        """Wait for the pending checkpoint, if any, and complete it.

        Raises:
            Exception: the error of the writing thread; the checkpoint is then not completed.
        """
        if self._pending is None:
            return
        future, step, meta = self._pending
        self._pending = None
        future.result()
        complete_checkpoint(self.folder, step, meta, self.keep)
