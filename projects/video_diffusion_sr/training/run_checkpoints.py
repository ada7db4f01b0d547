"""Checkpoints of one run: when they are written and which one a resumed run starts from."""

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
        folder: where checkpoints are written.
        settings: how often, how many, and whether training goes on meanwhile.
        state: the tensors that a resumed run needs.
        stage, seed: of the run; a checkpoint of another stage or seed is refused.
        header: words for the header of exported files, kept with the checkpoint.
    """

    def __init__(
        self, folder: Path, settings: CheckpointSettings, state: RunState, stage: str, seed: int, header: dict[str, str]
    ) -> None:
        self.folder, self.settings, self.state = folder, settings, state
        self.stage, self.seed, self.header = stage, seed, header
        self.writer = AsyncCheckpoints(folder, settings.keep) if settings.asynchronous else None

    @property
    def found(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return checkpoints(self.folder)

    def due(self, step: int) -> bool:
        """Whether one is to be written when `step` steps are done."""
        every = self.settings.every
        return every > 0 and step % every == 0

    def save(self, step: int, wait: bool) -> None:
        """Write a checkpoint after `step` steps.

        Args:
            wait: until it is written, also where checkpoints are asynchronous.
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
        """Load the newest checkpoint that can be read; returns how many steps it has, None where there is none.

        Raises:
            DamagedCheckpoint: there are checkpoints, and none can be read.
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
                logger.warning("%s; going on from the one before it", error)
                continue
            logger.info("resumed from %s", checkpoint)
            return int(meta["step"])
        return None

    def poll(self, device: torch.device) -> None:
        """Report an error of a checkpoint that is being written."""
        if self.writer is not None:
            self.writer.poll(device)

    def finish(self) -> None:
        """Wait for a checkpoint that is being written."""
        if self.writer is not None:
            self.writer.finish()
