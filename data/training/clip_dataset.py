"""Packed batches of training pairs: `dataset[step]` is the batch of one rank in that step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from safetensors.torch import load, load_file
from torch.utils.data import DataLoader, Dataset

from data.degradation.pipeline import build_degradation
from data.training.buckets import expand
from data.training.index import Index, build_index
from data.training.model_range import to_model_range, upsample_to_model_range
from data.training.pair_sampler import PairSampler, SamplerConfig
from data.training.sampling import ClipShape, RankSeed, Slot, slot_generator
from data.training.schedule import ShapeSchedule
from data.training.tar_shards import opened

Sample = dict[str, torch.Tensor | str]
S = TypeVar("S")
ALONE = RankSeed()


@dataclass(frozen=True)
class DegradationRecipes:
    """The degradation recipes, as the mappings in their YAML files. If both are None, samples have no `lq` (the VAE).

    clip: for several frames (`configs_degradation/video.yaml`).
    image: for a single frame (`configs_degradation/image.yaml`).
    """

    clip: Mapping[str, Any] | None = None
    image: Mapping[str, Any] | None = None


class ClipDataset(Dataset[list[Sample]]):
    """Packed batches of pairs from clips and images in folders; a batch mixes several shapes.

    `dataset[step]` depends only on (seed, step, rank, world). Sources are drawn with replacement, so there are no
    epochs: a run that stops at step n continues with `dataset[n]`.
    """

    def __init__(
        self,
        sources: Index | Sequence[str | Path],
        shapes: Sequence[ClipShape],
        budget_pixels: int,
        recipes: DegradationRecipes,
        rank_seed: RankSeed = ALONE,
        sampler: SamplerConfig | None = None,
        as_uint8: bool = False,
    ) -> None:
        """
        Args:
            sources: an index, or folders of videos and images to index now.
            shapes: the clip sizes to mix, divisible by the degradation's scale; their `start` and `end` count batches.
            budget_pixels: upper limit of frames x height x width in one rank's batch.
            recipes: how clips and single frames are degraded.
            rank_seed: the seed of the run, the data-parallel rank, and the number of ranks.
            sampler: how pairs are cropped and moved.
            as_uint8: return 8-bit pixels, 13 % of the bytes; the GPU then scales and enlarges them (`model_range.py`).

        Raises:
            ValueError: a shape exceeds the budget or every source, or the scale does not divide it.
        """
        if not shapes:
            raise ValueError("give at least one clip shape to train on.")
        index = sources if isinstance(sources, Index) else build_index(sources)
        self.shapes = expand(shapes, index.sources)
        self.schedule = ShapeSchedule(self.shapes, budget_pixels, rank_seed.seed)
        self.rank_seed = rank_seed
        self.as_uint8 = as_uint8
        clip_recipe, image_recipe = (build_degradation(r) if r else None for r in (recipes.clip, recipes.image))
        for shape in self.shapes:
            recipe = image_recipe if shape.frames == 1 else clip_recipe
            scale = 1 if recipe is None else recipe.config.scale
            if shape.height % scale or shape.width % scale:
                raise ValueError(f"a clip of {shape.height}x{shape.width} cannot be made {scale} times smaller.")
        self.sampler = PairSampler(index, self.shapes, clip_recipe, image_recipe, sampler)

    def __getitem__(self, step: int) -> list[Sample]:
        """The samples of a step on this rank.

        Returns:
            for each sample: `hq` float32 [3, T, H, W] in [-1, 1]; `lq` of the same shape, enlarged as in inference;
            `identity`, a string. With `as_uint8`: `hq` uint8 [T, H, W, 3] and `lq` uint8 [T, h, w, 3]. If the source
            has a text embedding: `text` [tokens, width] in the dtype of its file.
        """
        return [self.sample(step, slot) for slot in self.slots(step)]

    def slots(self, step: int) -> list[Slot]:
        """The slots of this rank's batch in a step: one per sample."""
        return self.schedule.plan(step, self.rank_seed.rank, self.rank_seed.world)

    def fill(self, step: int) -> float:
        """Return which fraction of the budget the batch of a step uses, in (0, 1]."""
        return self.schedule.fill(step)

    def sample(self, step: int, slot: Slot) -> Sample:
        """The sample of one slot, see `__getitem__`."""
        shape = self.shapes[slot.choice]
        pair = self.sampler.draw(shape, slot_generator(self.rank_seed.seed, step, slot.number))
        sample: Sample = {"identity": f"{pair.identity} seed={self.rank_seed.seed} step={step} slot={slot.number}"}
        if pair.text is not None:
            sample["text"] = read_text(pair.text)
        hq = torch.from_numpy(pair.hq)
        sample["hq"] = hq if self.as_uint8 else to_model_range(hq)
        if pair.lq is not None:
            lq = torch.from_numpy(pair.lq)
            sample["lq"] = lq if self.as_uint8 else upsample_to_model_range(lq, shape.height, shape.width)
        return sample


def read_text(path: str | Path) -> torch.Tensor:
    """Read a text embedding: the only tensor of its file, [tokens, width].

    Raises:
        ValueError: the file holds something else.
    """
    with opened(str(path)) as file:
        tensors = load_file(file) if isinstance(file, str) else load(file.read())
    text = next(iter(tensors.values())) if len(tensors) == 1 else None
    if text is None or text.ndim != 2 or not text.is_floating_point() or not len(text):
        found = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"{path} holds {found or 'nothing'}; a text embedding is one tensor [tokens, width]")
    return text


def make_loader(dataset: Dataset[S], first_step: int, last_step: int, workers: int, prefetch: int = 4) -> DataLoader[S]:
    """A loader of the batches of steps first_step .. last_step - 1, in order; a worker makes one batch at a time."""
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
    """Limit a worker process to one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
