"""Measures held-out clips during a run, with the same crops, degradations and noise every time.

Group i (modulo the number of groups) restores clip i, and one rank of the group decodes and measures it. Results do not
depend on the number of ranks. All ranks must gather a sharded network together, so every group restores the same number
of clips; if the clips run out, a group restores one again without counting it.
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
    """A sequence of batches, each of one clip."""

    def __len__(self) -> int:
        """The number of clips, the same on every rank."""

    def __getitem__(self, number: int) -> Any:
        """The batch of clip `number`, the same on every rank."""


class Validation:
    """Measures the quality of restored held-out clips.

    Args:
        clips: all held-out clips, on every rank; a rank reads only the clips of its group.
        settings: when to measure, and the weight files of LPIPS and DISTS.
        process: this rank.
        sp_size: number of ranks that share a clip.
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
        """Measure all held-out clips. Every rank must call it.

        Args:
            stage: the stage, whose networks have the averaged weights.

        Returns:
            the mean of each measure over all clips, and pictures (output | ground truth) of this rank's clips.
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
