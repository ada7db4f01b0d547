"""Steps that a run skips because their loss was not finite, listed in its folder for a resumed run."""

import json
import os
from pathlib import Path

from common.logger import get_logger
from projects.video_diffusion_sr.training.nan_guard import NonFiniteLoss

logger = get_logger(__name__)

FILE = "skipped_steps.json"


class BadSteps:
    """The list of steps to skip; their batches are read, but nothing is updated.

    After a bad step the run adds it to the list and returns to its newest checkpoint. The result depends only on the
    list, not on when or how often the run was stopped.

    Args:
        folder: the run's folder.
        most: the largest number of skipped steps; with 0 the first bad step ends the run.
        is_leader: whether this rank writes the file.
    """

    def __init__(self, folder: Path, most: int, is_leader: bool) -> None:
        self.path, self.most, self.is_leader = folder / FILE, most, is_leader
        self.steps: set[int] = set()

    def load(self) -> None:
        """Read the list that an earlier start of this run wrote."""
        if self.path.is_file():
            self.steps = set(json.loads(self.path.read_text()))

    def note(self, bad: NonFiniteLoss) -> None:
        """Add a step to the list; raises `bad` again if the list is full."""
        if len(self.steps) >= self.most or bad.step in self.steps:
            raise bad
        self.steps.add(bad.step)
        logger.warning("%s. Step %d will be skipped (%d of at most %d)", bad, bad.step, len(self.steps), self.most)
        if self.is_leader:
            temporary = Path(f"{self.path}.part")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(sorted(self.steps)))
            os.replace(temporary, self.path)
