"""Samples computed once and read many times: stacked tensors in safetensors shards with an index beside them.

Latents, and pairs of clips, are stored this way. A shard holds samples of equal shapes:

    shard-00000.safetensors   every tensor stacked: [samples, ...]
    index.json                files, sizes, identities; written last, so a folder with an index is whole
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from data.training.sampling import plan_slots, slot_generator

INDEX = "index.json"
Tensors = dict[str, torch.Tensor]


class ShardWriter:
    """Collects samples and writes shards; use as a context manager. After an error no index is written."""

    def __init__(self, folder: str | Path, samples_per_shard: int = 256) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / INDEX).exists():
            raise FileExistsError(f"{self.folder} already holds shards; choose another folder or remove it first.")
        self.samples_per_shard = samples_per_shard
        self._waiting: dict[tuple, list[tuple[Tensors, str]]] = {}
        self._shards: list[dict] = []

    def add(self, tensors: Tensors, identity: str, size: int) -> None:
        """Append a sample.

        Args:
            tensors: what to store, any shapes and dtypes that safetensors knows.
            identity: where it comes from.
            size: its cost in the unit of the reader's budget (pixels or tokens).
        """
        signature = (size, *sorted((name, tuple(t.shape), t.dtype) for name, t in tensors.items()))
        group = self._waiting.setdefault(signature, [])
        group.append(({name: t.detach().cpu() for name, t in tensors.items()}, identity))
        if len(group) == self.samples_per_shard:
            self._write(size, self._waiting.pop(signature))

    def add_stack(self, stacked: Tensors, identities: list[str], size: int) -> None:
        """Append samples that are stacked already, [samples, ...], as one shard."""
        self._write_stacked(size, {name: t.detach().cpu().contiguous() for name, t in stacked.items()}, identities)

    def close(self) -> Path:
        """Write what waits, then the index; returns the index's path."""
        for signature, group in self._waiting.items():
            self._write(signature[0], group)
        self._waiting = {}
        path = self.folder / INDEX
        part = Path(f"{path}.part")
        part.write_text(json.dumps({"version": 1, "shards": self._shards}))
        os.replace(part, path)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()

    def _write(self, size: int, group: list[tuple[Tensors, str]]) -> None:
        stacked = {name: torch.stack([tensors[name] for tensors, _ in group]) for name in group[0][0]}
        self._write_stacked(size, stacked, [identity for _, identity in group])

    def _write_stacked(self, size: int, stacked: Tensors, identities: list[str]) -> None:
        if any(len(t) != len(identities) for t in stacked.values()):
            raise ValueError("every stacked tensor and the identities must count the same samples.")
        file = f"shard-{len(self._shards):05d}.safetensors"
        part = self.folder / f"{file}.part"
        save_file(stacked, part)
        os.replace(part, self.folder / file)
        self._shards.append({"file": file, "size": size, "identities": identities})


class ShardReader:
    """Random access to the samples that a `ShardWriter` wrote; files are opened when first needed, in each process."""

    def __init__(self, folder: str | Path) -> None:
        """
        Raises:
            FileNotFoundError: the folder has no index: nothing was written, or the writing did not end.
        """
        self.folder = Path(folder)
        index = self.folder / INDEX
        if not index.exists():
            raise FileNotFoundError(f"{index} is missing: the shards were not written to the end.")
        self.shards: list[dict] = json.loads(index.read_text())["shards"]
        self._files: dict[int, safe_open] = {}

    def __len__(self) -> int:
        return sum(len(shard["identities"]) for shard in self.shards)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}

    def read(self, shard: int, row: int) -> dict:
        """One sample: its tensors and `identity`."""
        if shard not in self._files:
            self._files[shard] = safe_open(self.folder / self.shards[shard]["file"], framework="pt")
        file = self._files[shard]
        tensors = {name: file.get_slice(name)[row : row + 1][0] for name in file.keys()}
        return tensors | {"identity": self.shards[shard]["identities"][row]}

    def read_shard(self, shard: int) -> Tensors:
        """All samples of a shard, stacked: [samples, ...]. For data sets that fit on the GPU."""
        with safe_open(self.folder / self.shards[shard]["file"], framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


class ShardDataset(Dataset):
    """`dataset[step]`: a packed batch of stored samples, with the contract of `ClipDataset`.

    Sizes are drawn in proportion to how many samples have them; within a size, slots draw with replacement.
    """

    def __init__(self, folder: str | Path, budget: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """
        Args:
            folder: what a `ShardWriter` wrote.
            budget: the most that one rank's batch may cost, in the unit of the samples' sizes.
            seed, rank, world: as in `ClipDataset`.
        """
        self.reader = ShardReader(folder)
        self.budget, self.seed, self.rank, self.world = budget, seed, rank, world
        self._places: dict[int, list[tuple[int, int]]] = {}
        for number, shard in enumerate(self.reader.shards):
            rows = [(number, row) for row in range(len(shard["identities"]))]
            self._places.setdefault(shard["size"], []).extend(rows)
        if not self._places:
            raise ValueError(f"{folder} holds no samples.")

    def __getitem__(self, step: int) -> list[dict]:
        """The samples of a step on this rank: the stored tensors and `identity`."""
        sizes = list(self._places)
        counts = [len(places) for places in self._places.values()]
        slots = plan_slots(sizes, counts, self.budget, self.seed, step, self.rank, self.world)
        return [self._sample(step, slot.number, sizes[slot.choice]) for slot in slots]

    def _sample(self, step: int, slot: int, size: int) -> dict:
        places = self._places[size]
        place = places[int(slot_generator(self.seed, step, slot).integers(len(places)))]
        sample = self.reader.read(*place)
        return sample | {"identity": f"{sample['identity']} seed={self.seed} step={step} slot={slot}"}


Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def write_latents(batches: Iterable[list[dict]], encode: Encode, folder: str | Path, shard: int = 256) -> Path:
    """Encode pairs once: writes `hq_mean`, `hq_logvar`, `lq_mean`, `lq_logvar` of every sample.

    Mean and log-variance are kept rather than a draw, so that training draws anew each time.

    Args:
        batches: as a `ClipDataset` yields them, clips float32 [3, T, H, W] in [-1, 1].
        encode: the VAE's encoder: one clip to mean and log-variance, both of one shape.
        folder: where the shards go.
        shard: samples in a file.

    Returns:
        the index's path. A sample's size is the number of latent positions, t x h x w of [16, t, h, w].
    """
    with ShardWriter(folder, shard) as writer:
        for sample in (sample for batch in batches for sample in batch):
            (hq_mean, hq_logvar), (lq_mean, lq_logvar) = encode(sample["hq"]), encode(sample["lq"])
            tensors = {"hq_mean": hq_mean, "hq_logvar": hq_logvar, "lq_mean": lq_mean, "lq_logvar": lq_logvar}
            writer.add(tensors, sample["identity"], size=hq_mean[0].numel())
    return writer.folder / INDEX
