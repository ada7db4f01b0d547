"""Where batches come from: folders of clips, shards of latents on disk, or shards that live on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from common.config import load_config
from common.distributed.process import Process
from data.training.clip_dataset import ClipDataset, make_loader
from data.training.index import build_index
from data.training.latent_shards import INDEX, ShardDataset, ShardReader
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape, plan_slots, slot_generator
from projects.video_diffusion_sr.training.latents import MOMENTS, MomentBatch
from projects.video_diffusion_sr.training.settings import LoopSettings


@dataclass(frozen=True)
class DataSettings:
    """The section `data` of a training YAML.

    Attributes:
        shapes: clip sizes to mix, in pixels; frames are 4n + 1 (for the release's VAE). Not for latents, which have
            their sizes.
        budget_pixels: the most frames x height x width that one rank's batch of clips holds.
        budget_latents: the most latent positions (t x h x w) that one rank's batch of stored latents holds.
        workers: processes that decode and degrade.
        resident: keep stored latents (or, for the VAE, the pictures) on the device.
        degradation_video, degradation_image: recipes, see docs/degradation.md.
        sampler: how clips are cut.
    """

    shapes: tuple[ClipShape, ...] = ()
    budget_pixels: int = 0
    budget_latents: int = 0
    workers: int = 4
    resident: bool = False
    degradation_video: str = "configs_degradation/video.yaml"
    degradation_image: str = "configs_degradation/image.yaml"
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


class LoadedSource:
    """Batches of a dataset through a loader; number n is `dataset[n]`."""

    def __init__(self, dataset: Any, last: int, workers: int) -> None:
        self.dataset, self.last, self.workers = dataset, last, workers

    def batches(self, start: int) -> Iterator[list[dict]]:
        """See `loop.Source`."""
        return iter(make_loader(self.dataset, start, self.last, self.workers))


class ResidentLatents:
    """Stored latents that stay on the device: a batch is a handful of gathers, with nothing to decode or copy.

    Batches hold what `ShardDataset` with the same arguments would yield, draw for draw.

    Args:
        folder: what `data.training.latent_shards.write_latents` wrote; all of it must fit.
        budget: latent positions of one rank's batch.
    """

    def __init__(
        self, folder: str | Path, budget: int, seed: int, rank: int, world: int, device: torch.device | str
    ) -> None:
        reader = ShardReader(folder)
        self.budget, self.seed, self.rank, self.world = budget, seed, rank, world
        self.device = torch.device(device)
        stacked: dict[int, list[dict[str, Tensor]]] = {}
        self.names: dict[int, list[str]] = {}
        for number, shard in enumerate(reader.shards):
            stacked.setdefault(shard["size"], []).append(reader.read_shard(number))
            self.names.setdefault(shard["size"], []).extend(shard["identities"])
        self.sizes = {size: tuple(parts[0]["hq_mean"].shape[2:]) for size, parts in stacked.items()}
        for size, parts in stacked.items():
            if {tuple(part["hq_mean"].shape[2:]) for part in parts} != {self.sizes[size]}:
                raise ValueError(
                    f"{folder} holds latents of different shapes and {size} positions; set resident: false"
                )
        self.moments = {
            size: {name: torch.cat([rows_of(p[name].to(self.device)) for p in parts]) for name in MOMENTS}
            for size, parts in stacked.items()
        }  # N positions c

    def batches(self, start: int) -> Iterator[MomentBatch]:
        """See `loop.Source`."""
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> MomentBatch:
        """Batch `number`."""
        kinds = list(self.sizes)
        counts = [len(self.names[size]) for size in kinds]
        slots = plan_slots(kinds, counts, self.budget, self.seed, number, self.rank, self.world)
        rows = [int(slot_generator(self.seed, number, s.number).integers(counts[s.choice])) for s in slots]
        parts, names = {name: [] for name in MOMENTS}, []
        for size in kinds:  # samples of one size are gathered together and follow one another
            chosen = [row for row, slot in zip(rows, slots, strict=True) if kinds[slot.choice] == size]
            if chosen:
                index = torch.tensor(chosen).to(self.device, non_blocking=True)
                for name in MOMENTS:
                    parts[name].append(self.moments[size][name].index_select(0, index).flatten(0, 1))
                names += [(self.sizes[size], f"{self.names[size][row]} batch={number}") for row in chosen]
        packed = {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in parts.items()}
        return MomentBatch(**packed, sizes=tuple(s for s, _ in names), names=tuple(n for _, n in names))


def rows_of(stacked: Tensor) -> Tensor:
    """[N, c, t, h, w] -> [N, positions, c]."""
    return stacked.permute(0, 2, 3, 4, 1).flatten(1, 3).contiguous()


def make_source(
    stage: str, folders: Sequence[str | Path], data: DataSettings, loop: LoopSettings, process: Process
) -> Any:
    """The source that the settings describe.

    Args:
        stage: the VAE's stage wants clips alone, the others pairs.
        folders: videos and images, or one folder of stored latents.
        loop: its seed, and how many batches the whole run takes.

    Raises:
        ValueError: settings that do not go together, with what to change.
    """
    rank, world, seed = process.rank, process.world, loop.seed
    last = loop.steps * loop.accumulation
    if any((Path(folder) / INDEX).is_file() for folder in folders):
        return latent_source(stage, folders, data, last, seed, process)
    if not data.shapes or data.budget_pixels < 1:
        raise ValueError("clips are cut to data.shapes and packed up to data.budget_pixels; set both in --train")
    if stage == "vae" and data.resident:
        return resident_clips(folders, data, seed, process)
    recipes = [OmegaConf.to_container(load_config(path)) for path in (data.degradation_video, data.degradation_image)]
    dataset = ClipDataset(
        folders, data.shapes, data.budget_pixels, *recipes, seed, rank, world, data.sampler, as_uint8=True
    )
    return LoadedSource(VaeClips(dataset, loop.accumulation) if stage == "vae" else dataset, last, data.workers)


def latent_source(
    stage: str, folders: Sequence[str | Path], data: DataSettings, last: int, seed: int, process: Process
) -> Any:
    """A source of stored latents."""
    if stage == "vae":
        raise ValueError("the VAE is trained on clips, not on latents; give --data folders of videos and images")
    if len(folders) != 1 or data.budget_latents < 1:
        raise ValueError("stored latents: give one folder, and data.budget_latents in --train")
    arguments = (folders[0], data.budget_latents, seed, process.rank, process.world)
    if data.resident:
        return ResidentLatents(*arguments, process.device)
    return LoadedSource(ShardDataset(*arguments), last, data.workers)


def resident_clips(folders: Sequence[str | Path], data: DataSettings, seed: int, process: Process) -> Any:
    """The VAE's clips, cut on the device from pictures that stay there."""
    from projects.video_diffusion_sr.training.resident import ResidentClips, ResidentConfig

    if len(data.shapes) != 1:
        raise ValueError("data.resident for the VAE takes one entry in data.shapes")
    shape = data.shapes[0]
    config = ResidentConfig(shape, data.budget_pixels // shape.pixels, motion=data.sampler.motion)
    return ResidentClips(build_index(folders), config, seed * process.world + process.rank, process.device)


class VaeClips(torch.utils.data.Dataset):
    """A dataset of pairs as the VAE's stage reads it: the clips alone, those of one size together."""

    def __init__(self, dataset: ClipDataset, accumulation: int) -> None:
        self.dataset, self.accumulation = dataset, accumulation

    def __getitem__(self, number: int) -> Any:
        from projects.video_diffusion_sr.training.vae import ClipBatch

        samples = self.dataset[number]
        groups: dict[tuple, list[dict]] = {}
        for sample in samples:
            groups.setdefault(tuple(sample["hq"].shape), []).append(sample)
        clips = tuple(torch.stack([s["hq"] for s in group]).movedim(-1, 1) for group in groups.values())
        names = [sample["identity"] for group in groups.values() for sample in group]
        return ClipBatch(names, number // self.accumulation, clips)
