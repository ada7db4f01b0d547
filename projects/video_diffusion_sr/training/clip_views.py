"""Two views of a dataset of pairs: single held-out clips for validation, and clips without pairs for the VAE."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

from data.training.clip_dataset import ClipDataset

if TYPE_CHECKING:
    from projects.video_diffusion_sr.training.vae import ClipBatch


class HeldOut:
    """The clips of a dataset's first batches, each as a separate batch. Clips are made on first access and kept.

    Args:
        batches: the number of batches whose clips are used.
        for_vae: return batches for the VAE's stage.
    """

    def __init__(self, dataset: ClipDataset, batches: int, for_vae: bool) -> None:
        self.dataset, self.for_vae = dataset, for_vae
        self.places = [(step, slot) for step in range(batches) for slot in dataset.slots(step)]
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Any:
        if number not in self._kept:
            samples = [self.dataset.sample(*self.places[number])]
            self._kept[number] = clips_for_vae(samples, 0) if self.for_vae else samples
        return self._kept[number]


class VaeClips(torch.utils.data.Dataset["ClipBatch"]):
    """The ground truths of a dataset of pairs, grouped by size, for the VAE's stage."""

    def __init__(self, dataset: ClipDataset, accumulation: int) -> None:
        self.dataset, self.accumulation = dataset, accumulation

    def __getitem__(self, number: int) -> "ClipBatch":
        return clips_for_vae(self.dataset[number], number // self.accumulation)

    def fill(self, number: int) -> float:
        """Return which fraction of the budget batch `number` uses, in (0, 1]."""
        return self.dataset.fill(number)


def clips_for_vae(samples: list[dict[str, Any]], step: int) -> "ClipBatch":
    """The batch of the VAE's stage for step `step` of the run, from samples with `hq`."""
    from projects.video_diffusion_sr.training.vae import ClipBatch

    groups: dict[tuple[Hashable, ...], list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample["hq"].shape), []).append(sample)
    clips = tuple(torch.stack([s["hq"] for s in group]).movedim(-1, 1) for group in groups.values())
    return ClipBatch([sample["identity"] for group in groups.values() for sample in group], step, clips)
