"""Measures held-out clips during a run, with the same crops and degradations every time."""

from collections import defaultdict

import torch
from torch import Tensor

from common.distributed import fsdp
from data.pixel_range import model_to_unit
from projects.evaluation.frames import stored_frames
from projects.evaluation.measures import Measures
from projects.video_diffusion_sr.training.settings import ValidationSettings
from projects.video_diffusion_sr.training.stage import BatchSource, Stage

SEED = 0  # of the held-out crops: the same for every run, so that runs can be compared
PICTURES = 4  # clips whose middle frame is shown


class Validation:
    """Measurement on clips that the run does not train on.

    Args:
        source: of held-out batches; the first `settings.batches` of each rank are used.
        settings: how often, how much, with which weight files.
    """

    def __init__(self, source: BatchSource, settings: ValidationSettings) -> None:
        self.source, self.settings = source, settings
        self.measures = Measures.chosen(settings.lpips_weights, settings.dists_weights)

    def due(self, step: int, last: bool) -> bool:
        """Whether to measure after this step, counted from 0."""
        every = self.settings.every
        return every > 0 and (last or (step + 1) % every == 0)

    @torch.no_grad()
    def measure(self, stage: Stage, generator: torch.Generator) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Means over all held-out clips of all ranks, and pictures (output | ground truth). Every rank calls it.

        Args:
            stage: with averaged weights in place.
        """
        totals: dict[str, float] = defaultdict(float)
        clips, pictures = 0, {}
        stream = self.source.batches(0)
        for _ in range(self.settings.batches):
            for output, truth in stage.validate(next(stream), generator):
                pairs = zip(stored_frames(output), stored_frames(truth), strict=True)
                for name, value in self.measures.of_clip(pairs, stage.device)[1].items():
                    totals[name] += value
                if clips < PICTURES:
                    middle = output.shape[1] // 2
                    pair = torch.cat([output[:, middle], truth[:, middle]], dim=2)  # 3 H 2W
                    pictures[f"validation/{clips}_output_gt"] = model_to_unit(pair)
                clips += 1
        names = self.measures.names
        means = fsdp.mean_over_ranks(torch.tensor([totals[n] for n in names] + [float(clips)], device=stage.device))
        return {f"validation/{n}": (means[i] / means[-1]).item() for i, n in enumerate(names)}, pictures
