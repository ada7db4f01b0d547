"""Steps that a run leaves out, as their loss was no number: noted in its folder, so that a resume does the same."""

import json
import os
from pathlib import Path

from common.logger import get_logger
from projects.video_diffusion_sr.training.nan_guard import NonFiniteLoss

logger = get_logger(__name__)

FILE = "skipped_steps.json"


class BadSteps:
    """Which steps are skipped: their batch is read, and nothing is learnt from it.

    A run goes back to its newest checkpoint, notes the bad step and goes on. What it computes then is what any run with
    this list computes, whenever and however often it is stopped.

    Args:
        folder: of the run.
        most: how many steps may be left out; 0 ends the run with the first.
        leads: whether this rank writes.
    """

    def __init__(self, folder: Path, most: int, leads: bool) -> None:
        self.path, self.most, self.leads = folder / FILE, most, leads
        self.steps: set[int] = set()

    def load(self) -> None:
        """Take over what this run noted before."""
        if self.path.is_file():
            self.steps = set(json.loads(self.path.read_text()))

    def note(self, bad: NonFiniteLoss) -> None:
        """Skip this step from now on; raises `bad` again where no more may be skipped."""
        if len(self.steps) >= self.most or bad.step in self.steps:
            raise bad
        self.steps.add(bad.step)
        logger.warning("%s. Step %d is left out (%d of at most %d)", bad, bad.step, len(self.steps), self.most)
        if self.leads:
            part = Path(f"{self.path}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(sorted(self.steps)))
            os.replace(part, self.path)
