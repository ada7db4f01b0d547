"""Writes the checkpoints of a run when they are due, and loads the newest one for a resumed run."""

from pathlib import Path

import torch

from common.distributed.async_checkpoint import AsyncCheckpoints
from common.distributed.checkpoint import checkpoints, read_meta, save_checkpoint
from common.distributed.metadata import DamagedCheckpoint
from common.logger import get_logger
from projects.video_diffusion_sr.training.run_state import RunState, refuse_other_run
from projects.video_diffusion_sr.training.settings import CheckpointSettings

logger = get_logger(__name__)


class RunCheckpoints:
    """The folder `checkpoints/` of a run.

    Args:
        folder: the folder of the checkpoints.
        settings: how often to write, how many to keep, and whether to write asynchronously.
        state: the tensors that a resumed run needs.
        stage, seed: the run's; a checkpoint of another stage or seed is refused.
        header: entries for the header of exported files, stored in the checkpoint.
    """

    def __init__(
        self, folder: Path, settings: CheckpointSettings, state: RunState, stage: str, seed: int, header: dict[str, str]
    ) -> None:
        self.folder, self.settings, self.state = folder, settings, state
        self.stage, self.seed, self.header = stage, seed, header
        self.writer = AsyncCheckpoints(folder, settings.keep) if settings.asynchronous else None

    @property
    def found(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return checkpoints(self.folder)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        every = self.settings.every
        return every > 0 and step % every == 0

    def save(self, step: int, wait: bool) -> None:
        """Write a checkpoint after `step` steps.

        Args:
            wait: return only when it is written, even if checkpoints are asynchronous.
        """
        meta = {"stage": self.stage, "seed": self.seed, "header": self.header}
        tensors = self.state.tensors()
        if self.writer is None:
            save_checkpoint(self.folder, step, tensors, meta, self.settings.keep)
            return
        self.writer.start(step, tensors, meta)
        if wait:
            self.writer.finish()

    def load_newest(self) -> int | None:
        """Load the newest readable checkpoint. Returns its number of steps; None if there is no checkpoint.

        Raises:
            DamagedCheckpoint: there are checkpoints, but none can be read.
        """
        found = self.found
        for number, checkpoint in enumerate(reversed(found), start=1):
            try:
                meta = read_meta(checkpoint)
                refuse_other_run(checkpoint, meta, self.stage, self.seed)
                self.state.load(checkpoint)
            except DamagedCheckpoint as error:
                if number == len(found):
                    raise
                logger.warning("%s; trying the one before it", error)
                continue
            logger.info("resumed from %s", checkpoint)
            return int(meta["step"])
        return None

    def poll(self, device: torch.device) -> None:
        """Raise the error of an asynchronous checkpoint, if it has failed."""
        if self.writer is not None:
            self.writer.poll(device)

    def finish(self) -> None:
        """Wait until an asynchronous checkpoint is written."""
        if self.writer is not None:
            self.writer.finish()
