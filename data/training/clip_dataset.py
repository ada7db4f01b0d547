"""Packed batches of training pairs: `dataset[step]` is what one rank trains on in that step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data.degradation.pipeline import build_degradation
from data.training.index import Index, build_index
from data.training.model_range import to_model_range, upsample_to_model_range
from data.training.pair_sampler import PairSampler, SamplerConfig
from data.training.sampling import ClipShape, plan_slots, slot_generator

Sample = dict[str, torch.Tensor | str]


class ClipDataset(Dataset):
    """Pairs of clips and images from folders, several shapes in one batch.

    `dataset[step]` depends on (seed, step, rank, world) alone. Sources are drawn with replacement, so there is no epoch
    to remember: a run that stops at step n goes on with `dataset[n]`.
    """

    def __init__(
        self,
        sources: Index | Sequence[str | Path],
        shapes: Sequence[ClipShape],
        budget_pixels: int,
        degrade_clip: Mapping[str, Any],
        degrade_image: Mapping[str, Any],
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        sampler: SamplerConfig | None = None,
        as_uint8: bool = False,
    ) -> None:
        """
        Args:
            sources: an index, or folders of videos and images to index now.
            shapes: the clip sizes to mix, divisible by the degradation's scale.
            budget_pixels: the most frames x height x width in one rank's batch.
            degrade_clip: the recipe for clips (`configs_degradation/video.yaml` as a mapping).
            degrade_image: the recipe for single frames (`configs_degradation/image.yaml`).
            seed: of the whole run.
            rank, world: this data-parallel rank and their number.
            sampler: how pairs are cut.
            as_uint8: leave scaling and enlarging to the GPU (`model_range.py`); a pair then takes 13 % of the bytes.

        Raises:
            ValueError: a shape does not fit the budget, the scale or any source.
        """
        if not shapes:
            raise ValueError("give at least one clip shape to train on.")
        index = sources if isinstance(sources, Index) else build_index(sources)
        self.shapes = tuple(shapes)
        self.budget_pixels = budget_pixels
        self.seed, self.rank, self.world = seed, rank, world
        self.as_uint8 = as_uint8
        clip_recipe, image_recipe = build_degradation(degrade_clip), build_degradation(degrade_image)
        for shape in self.shapes:
            scale = (image_recipe if shape.frames == 1 else clip_recipe).config.scale
            if shape.height % scale or shape.width % scale:
                raise ValueError(f"a clip of {shape.height}x{shape.width} cannot be made {scale} times smaller.")
        self.sampler = PairSampler(index, self.shapes, clip_recipe, image_recipe, sampler)
        self._slots(0)

    def __getitem__(self, step: int) -> list[Sample]:
        """The samples of a step on this rank.

        Returns:
            for each, `hq` float32 [3, T, H, W] in [-1, 1], `lq` the same size, enlarged as inference does, `identity`.
            With `as_uint8`: `hq` uint8 [T, H, W, 3] and `lq` uint8 [T, h, w, 3] instead.
        """
        return [self._sample(step, slot.number, self.shapes[slot.choice]) for slot in self._slots(step)]

    def _slots(self, step: int) -> list:
        sizes, weights = [s.pixels for s in self.shapes], [s.weight for s in self.shapes]
        return plan_slots(sizes, weights, self.budget_pixels, self.seed, step, self.rank, self.world)

    def _sample(self, step: int, slot: int, shape: ClipShape) -> Sample:
        pair = self.sampler.draw(shape, slot_generator(self.seed, step, slot))
        hq, lq = torch.from_numpy(pair.hq), torch.from_numpy(pair.lq)
        identity = f"{pair.identity} seed={self.seed} step={step} slot={slot}"
        if self.as_uint8:
            return {"hq": hq, "lq": lq, "identity": identity}
        large = upsample_to_model_range(lq, shape.height, shape.width)
        return {"hq": to_model_range(hq), "lq": large, "identity": identity}


def make_loader(dataset: Dataset, first_step: int, last_step: int, workers: int, prefetch: int = 4) -> DataLoader:
    """Batches of the steps first_step .. last_step - 1, in order, one worker process per batch in the making."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=single_threaded if workers else None,
        multiprocessing_context="spawn" if workers else None,  # OpenCV's threads do not survive a fork
        pin_memory=torch.cuda.is_available(),
    )


def single_threaded(_worker: int = 0) -> None:
    """One thread for a process among many."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
