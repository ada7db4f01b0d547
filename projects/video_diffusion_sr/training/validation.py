"""Measures held-out clips during a run, with the same crops, degradations and noise every time.

Clips are restored one by one, clip i by group i of ranks, i modulo the number of groups; of the ranks that share a clip
one decodes and measures it. Results depend neither on the number of ranks nor on who restores what. A sharded network
is gathered by all ranks together, so every group restores equally many clips: those left over are restored again, and
do not count.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from common.distributed import fsdp
from common.distributed.process import Process
from data.pixel_range import model_to_unit
from projects.evaluation.frames import stored_frames
from projects.evaluation.measures import Measures
from projects.video_diffusion_sr.training.settings import ValidationSettings
from projects.video_diffusion_sr.training.stage import Stage

PICTURES = 4  # clips whose middle frame is shown


class HeldOutClips(Protocol):
    """Batches of one clip each, by number; a sequence of `Batch`."""

    def __len__(self) -> int:
        """How many there are, the same on every rank."""

    def __getitem__(self, number: int) -> Any:
        """The batch that holds clip `number` alone, the same on every rank."""


class Validation:
    """Measurement on clips that the run does not train on.

    Args:
        clips: all of them, on every rank; a rank reads those of its group.
        settings: how often, with which weight files.
        process: this rank. sp_size: how many ranks share a clip.
    """

    def __init__(
        self, clips: HeldOutClips | Sequence[Any], settings: ValidationSettings, process: Process, sp_size: int = 1
    ) -> None:
        self.clips, self.settings = clips, settings
        self.group, self.groups = process.group(sp_size)
        self.rank, self.size = process.rank % sp_size, sp_size
        self.measures = Measures.chosen(settings.lpips_weights, settings.dists_weights)

    def due(self, step: int, last: bool) -> bool:
        """Whether to measure after this step, counted from 0."""
        every = self.settings.every
        return every > 0 and (last or (step + 1) % every == 0)

    @torch.no_grad()
    def measure(self, stage: Stage) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Means over all held-out clips, and pictures (output | ground truth) of this rank's. Every rank calls it.

        Args:
            stage: with averaged weights in place.
        """
        names, count = self.measures.names, len(self.clips)
        totals = torch.zeros(len(names) + 1, dtype=torch.float64, device=stage.device)  # the last: clips
        pictures: dict[str, Tensor] = {}
        for place, first in enumerate(range(0, count, self.groups)):
            number = (first + self.group) % count
            counts = first + self.group < count
            generator = torch.Generator(stage.device).manual_seed(number)
            mine = place % self.size == self.rank
            found = stage.validate(self.clips[number], generator, decode=mine and counts)
            for output, truth in found:
                pairs = zip(stored_frames(output), stored_frames(truth), strict=True)
                values = self.measures.of_clip(pairs, stage.device)[1]
                totals += torch.tensor([*(values[name] for name in names), 1.0]).to(totals)
                if len(pictures) < PICTURES:
                    middle = output.shape[1] // 2
                    pair = torch.cat([output[:, middle], truth[:, middle]], dim=2)  # 3 H 2W
                    pictures[f"validation/{number}_output_gt"] = model_to_unit(pair)
        means = fsdp.mean_over_ranks(totals)
        return {f"validation/{name}": (means[i] / means[-1]).item() for i, name in enumerate(names)}, pictures
