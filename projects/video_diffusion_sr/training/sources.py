"""The sources of batches: folders of clips, stored latents on disk, or stored latents on the device."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import load_config, plain_values
from common.distributed.process import Process
from common.logger import get_logger
from data.training.clip_dataset import ClipDataset, DegradationRecipes, make_loader
from data.training.index import Index, build_index, cached_index
from data.training.latent_shards import INDEX, TEXT, TEXT_TOKENS, ShardDataset, ShardReader
from data.training.packing import BatchPlanner
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape, RankSeed, slot_generator
from projects.video_diffusion_sr.training.clip_views import HeldOut, VaeClips
from projects.video_diffusion_sr.training.latents import POSTERIOR_KEYS, PosteriorBatch
from projects.video_diffusion_sr.training.packed import Size3, size_of
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import BatchSource

logger = get_logger(__name__)

HELD_OUT_SEED = 0  # seed for the crops and degradations of --validation, equal in all runs so that they can be compared


@dataclass(frozen=True)
class DataSettings:
    """The section `data` of a training YAML.

    Attributes:
        shapes: the clip sizes to mix, in pixels; the number of frames is 4n + 1 (for the released VAE). `start` and
            `end` limit the steps in which a shape is used; `aspects` make a shape a group of buckets. Stored latents
            have fixed sizes and need no shapes.
        budget_pixels: upper limit of frames x height x width in one rank's batch of clips.
        budget_latents: upper limit of latent positions (t x h x w) in one rank's batch of stored latents.
        workers: number of processes that decode and degrade, at most the number of cores.
        resident: keep stored latents (or, for the VAE, the pictures) on the device.
        degradation_video, degradation_image: degradation recipes, see docs/degradation.md.
        sampler: how clips are cropped.
    """

    shapes: tuple[ClipShape, ...] = ()
    budget_pixels: int = 0
    budget_latents: int = 0
    workers: int = 4
    resident: bool = False
    degradation_video: str = "configs_degradation/video.yaml"
    degradation_image: str = "configs_degradation/image.yaml"
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(image_share=0.0))


class LoadedSource(BatchSource):
    """Batches of a dataset, read by worker processes; batch n is `dataset[n]`."""

    def __init__(self, dataset: Any, last: int, workers: int) -> None:
        self.dataset, self.last, self.workers = dataset, last, workers

    def batches(self, start: int) -> Iterator[list[dict[str, Any]]]:
        return iter(make_loader(self.dataset, start, self.last, self.workers))

    def fill(self, number: int) -> float | None:
        return self.dataset.fill(number)


class ResidentLatents(BatchSource):
    """Batches of stored latents that stay on the device. A batch needs a few gathers and no decoding or copying.

    The samples of a batch are those of `ShardDataset` with the same arguments.

    Args:
        folder: a folder written by `data.training.latent_shards.write_latents`, which must fit into device memory.
        budget: upper limit of latent positions in one rank's batch.
    """

    def __init__(
        self, folder: str | Path, budget: int, seed: int, rank: int, world: int, device: torch.device | str
    ) -> None:
        reader = ShardReader(folder)
        self.seed, self.rank, self.world = seed, rank, world
        self.device = torch.device(device)
        stacked: dict[int, list[dict[str, Tensor]]] = {}
        self.names: dict[int, list[str]] = {}
        for number, shard in enumerate(reader.shards):
            stacked.setdefault(shard["size"], []).append(reader.read_shard(number))
            self.names.setdefault(shard["size"], []).extend(shard["identities"])
        self.sizes = {size: size_of(shards[0]["hq_mean"][0]) for size, shards in stacked.items()}
        for size, shards in stacked.items():
            if {size_of(shard["hq_mean"][0]) for shard in shards} != {self.sizes[size]}:
                raise ValueError(
                    f"{folder} holds latents of different shapes and {size} positions; set resident: false"
                )
        self.moments = {
            size: {name: torch.cat([rows_of(p[name].to(self.device)) for p in shards]) for name in POSTERIOR_KEYS}
            for size, shards in stacked.items()
        }  # N positions c
        self.texts = {size: [text for shard in shards for text in texts_of(shard)] for size, shards in stacked.items()}
        self.planner = BatchPlanner(list(self.sizes), [len(self.names[size]) for size in self.sizes], budget, seed)
        self.planner.warn_if_loose()

    def batches(self, start: int) -> Iterator[PosteriorBatch]:
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def fill(self, number: int) -> float | None:
        return self.planner.fill(number)

    def batch(self, number: int) -> PosteriorBatch:
        """Batch `number`."""
        kinds = list(self.sizes)
        counts = [len(self.names[size]) for size in kinds]
        slots = self.planner.plan(number, self.rank, self.world)
        rows = [int(slot_generator(self.seed, number, s.number).integers(counts[s.choice])) for s in slots]
        gathered: dict[str, list[Tensor]] = {name: [] for name in POSTERIOR_KEYS}
        names: list[tuple[Size3, str]] = []
        texts: list[Tensor | None] = []
        for size in kinds:  # samples of one size are gathered together, and are adjacent in the batch
            chosen = [row for row, slot in zip(rows, slots, strict=True) if kinds[slot.choice] == size]
            if chosen:
                index = torch.tensor(chosen).to(self.device, non_blocking=True)
                for name in POSTERIOR_KEYS:
                    gathered[name].append(self.moments[size][name].index_select(0, index).flatten(0, 1))
                names += [(self.sizes[size], f"{self.names[size][row]} batch={number}") for row in chosen]
                texts += [None if (text := self.texts[size][row]) is None else text.to(self.device) for row in chosen]
        packed = {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in gathered.items()}
        return PosteriorBatch(
            **packed, sizes=tuple(s for s, _ in names), names=tuple(n for _, n in names), texts=tuple(texts)
        )


def texts_of(shard: dict[str, Tensor]) -> list[Tensor | None]:
    """The text embedding of every sample of a shard, float32 without padding; a list of None if it has none."""
    if TEXT not in shard:
        return [None] * len(shard["hq_mean"])
    return [text[:tokens].float() for text, tokens in zip(shard[TEXT], shard[TEXT_TOKENS].tolist(), strict=True)]


def rows_of(stacked: Tensor) -> Tensor:
    """Reorder latents: [N, c, t, h, w] -> [N, positions, c]."""
    return stacked.permute(0, 2, 3, 4, 1).flatten(1, 3).contiguous()


def make_source(
    stage: str,
    folders: Sequence[str | Path],
    data: DataSettings,
    loop: LoopSettings,
    process: Process,
    cache: Path | None = None,
) -> BatchSource:
    """Make the source of batches that the settings describe.

    Args:
        stage: the name of the stage. The VAE's stage takes clips, the others take pairs.
        folders: folders of videos and images, or one folder of stored latents.
        loop: determines the seed and the number of batches of the run.
        cache: the file in which the index of the folders is kept; None: the folders are probed each time.

    Raises:
        ValueError: settings contradict each other; the message says what to change.
    """
    last = loop.steps * loop.accumulation
    if any((Path(folder) / INDEX).is_file() for folder in folders):
        return latent_source(stage, folders, data, loop, process)
    if not data.shapes or data.budget_pixels < 1:
        raise ValueError("clips are cut to data.shapes and packed up to data.budget_pixels; set both in --train")
    index = shared_index(folders, cache, process)
    if stage == "vae" and data.resident:
        return resident_clips(index, data, loop, process)
    # The loop takes `accumulation` batches per step, and `start` and `end` of shapes count steps.
    shapes = [in_batches(shape, loop.accumulation) for shape in data.shapes]
    dataset = clip_dataset(index, shapes, data, loop.seed, process.group(loop.sp_size), degraded=stage != "vae")
    workers = fitting_workers(data.workers, process)
    return LoadedSource(VaeClips(dataset, loop.accumulation) if stage == "vae" else dataset, last, workers)


def held_out_clips(
    stage: str, folders: Sequence[str | Path], data: DataSettings, loop: LoopSettings, process: Process, cache: Path
) -> "HeldOut":
    """Held-out clips, in the shapes of the run's last step. They do not depend on the number of ranks."""
    if not data.shapes or data.budget_pixels < 1:
        raise ValueError("--validation cuts clips to data.shapes up to data.budget_pixels; set both in --train")
    shapes = [replace(shape, start=0) for shape in data.shapes if shape.end is None]
    index = shared_index(folders, cache, process)
    dataset = clip_dataset(index, shapes, data, HELD_OUT_SEED, (0, 1), degraded=stage != "vae")
    return HeldOut(dataset, loop.validation.batches, for_vae=stage == "vae")


def clip_dataset(
    index: Index, shapes: Sequence[ClipShape], data: DataSettings, seed: int, group: tuple[int, int], degraded: bool
) -> ClipDataset:
    """A dataset of pairs, cropped and degraded as the settings say; without `degraded`, of clips only.

    Args:
        group: the number of this rank's group, and the number of groups. A group has `sp_size` ranks.
    """
    recipes = DegradationRecipes()
    if degraded:
        paths = (data.degradation_video, data.degradation_image)
        recipes = DegradationRecipes(*(plain_values(load_config(path)) for path in paths))
    rank_seed = RankSeed(seed, *group)
    return ClipDataset(index, shapes, data.budget_pixels, recipes, rank_seed, data.sampler, as_uint8=True)


def in_batches(shape: ClipShape, accumulation: int) -> ClipShape:
    """Convert the start and the end of a shape from steps to batches."""
    end = None if shape.end is None else shape.end * accumulation
    return replace(shape, start=shape.start * accumulation, end=end)


def shared_index(folders: Sequence[str | Path], cache: Path | None, process: Process) -> Index:
    """The index of the folders. One rank probes them, and the others read the file in which it stores the index."""
    if cache is None:
        return build_index(folders)
    if process.is_leader:
        index = cached_index(folders, cache)
    process.barrier()
    return index if process.is_leader else Index.load(cache)


def fitting_workers(wanted: int, process: Process) -> int:
    """Limit the number of worker processes per rank, `wanted`, to the machine's cores divided by its ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(1, cores // process.local_world)
    if wanted > most:
        logger.info("data.workers: %d instead of %d, as there are %d cores for each rank", most, wanted, most)
    return min(wanted, most)


def latent_source(
    stage: str, folders: Sequence[str | Path], data: DataSettings, loop: LoopSettings, process: Process
) -> BatchSource:
    """Make a source of stored latents, on the device or on disk."""
    if stage == "vae":
        raise ValueError("the VAE is trained on clips, not on latents; give --data folders of videos and images")
    if len(folders) != 1 or data.budget_latents < 1:
        raise ValueError("stored latents: give one folder, and data.budget_latents in --train")
    arguments = (folders[0], data.budget_latents, loop.seed, *process.group(loop.sp_size))
    if data.resident:
        return ResidentLatents(*arguments, process.device)
    last = loop.steps * loop.accumulation
    return LoadedSource(ShardDataset(*arguments), last, fitting_workers(data.workers, process))


def resident_clips(index: Index, data: DataSettings, loop: LoopSettings, process: Process) -> BatchSource:
    """Make a source of clips for the VAE that keeps the pictures on the device and crops them there."""
    from projects.video_diffusion_sr.training.resident import ResidentClips, ResidentConfig

    if len(data.shapes) != 1:
        raise ValueError("data.resident for the VAE takes one entry in data.shapes")
    if data.sampler.motion is None:
        raise ValueError(
            "data.resident films photographs, which data.sampler.motion: null forbids; leave one of them out"
        )
    shape = data.shapes[0]
    config = ResidentConfig(shape, data.budget_pixels // shape.pixels, motion=data.sampler.motion)
    group, groups = process.group(loop.sp_size)
    return ResidentClips(index, config, loop.seed * groups + group, process.device)
