"""Stores precomputed samples (latents, or pairs of clips) as safetensors shards with an index.

A shard holds samples of equal shapes. The files of a folder:

    shard-00000.safetensors   every tensor stacked: [samples, ...]
    progress.json             the shards written so far, so that an interrupted job can continue
    index.json                files, sizes, identities; written last, so a folder with an index is complete
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from data.training.packing import BatchPlanner
from data.training.sampling import slot_generator

INDEX, PROGRESS = "index.json", "progress.json"
TEXT, TEXT_TOKENS = "text", "text_tokens"  # a text embedding, and how many of its rows are not padding
TEXT_MULTIPLE = 64  # texts are padded to a multiple of this number of tokens, which gives few shapes, hence few shards
BATCHES_BETWEEN = 64  # batches of latents between two writes of progress.json
STORED = torch.float16  # dtype of stored latents: 11 bits of precision, and latents are far below its largest value
Tensors = dict[str, torch.Tensor]


class ShardWriter:
    """Collects samples and writes shards; use as a context manager. After an error no index is written.

    Args:
        folder: a new folder, or one that a writer of the same `job` left unfinished, which is then continued.
        samples_per_shard: the largest number of samples in one file.
        job: a description of the content; a folder is only continued by the same job.

    Attributes:
        done: the number last passed to `commit`; 0 in a new folder.

    Raises:
        FileExistsError: the folder is complete.
        ValueError: the folder was begun by another job.
    """

    def __init__(self, folder: str | Path, samples_per_shard: int = 256, job: str = "") -> None:
        self.folder, self.job = Path(folder), job
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / INDEX).exists():
            raise FileExistsError(f"{self.folder} already holds shards; choose another folder or remove it first.")
        self.samples_per_shard = samples_per_shard
        self._waiting: dict[tuple[Any, ...], list[tuple[Tensors, str]]] = {}
        self._shards: list[dict[str, Any]] = []
        self.done = 0
        if (self.folder / PROGRESS).exists():
            progress = json.loads((self.folder / PROGRESS).read_text())
            if progress["job"] != job:
                raise ValueError(
                    f"{self.folder} was begun with other settings ({progress['job']}, now {job}); repeat those, or "
                    "choose another folder."
                )
            self.done, self._shards = progress["done"], progress["shards"]

    def add(self, tensors: Tensors, identity: str, size: int) -> None:
        """Append a sample.

        Args:
            tensors: the sample, in any shapes and dtypes that safetensors supports.
            identity: the origin of the sample.
            size: its cost in the unit of the reader's budget (pixels or tokens).
        """
        signature = (size, *sorted((name, tuple(t.shape), t.dtype) for name, t in tensors.items()))
        group = self._waiting.setdefault(signature, [])
        group.append(({name: t.detach().cpu() for name, t in tensors.items()}, identity))
        if len(group) == self.samples_per_shard:
            self._write(size, self._waiting.pop(signature))

    def add_stack(self, stacked: Tensors, identities: list[str], size: int) -> None:
        """Append stacked samples, [samples, ...], as one shard."""
        self._write_stacked(size, {name: t.detach().cpu().contiguous() for name, t in stacked.items()}, identities)

    def close(self) -> Path:
        """Write the remaining samples, then the index; returns the path of the index."""
        self._write_waiting()
        path = self.folder / INDEX
        write_json({"version": 1, "shards": self._shards}, path)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        return path

    def commit(self, done: int) -> None:
        """Write the remaining samples and the progress. A later writer of this folder has this number as its `done`."""
        self._write_waiting()
        self.done = done
        write_json({"job": self.job, "done": done, "shards": self._shards}, self.folder / PROGRESS)

    def _write_waiting(self) -> None:
        for signature, group in self._waiting.items():
            self._write(signature[0], group)
        self._waiting = {}

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
        temporary = self.folder / f"{file}.part"
        save_file(stacked, temporary)
        os.replace(temporary, self.folder / file)
        self._shards.append({"file": file, "size": size, "identities": identities})


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write JSON atomically."""
    temporary = Path(f"{path}.part")
    temporary.write_text(json.dumps(values))
    os.replace(temporary, path)


class ShardReader:
    """Random access to the samples of a `ShardWriter`. Each process opens a file when it first needs it."""

    def __init__(self, folder: str | Path) -> None:
        """
        Raises:
            FileNotFoundError: the folder has no index, because nothing was written or the writer was interrupted.
            ValueError: the index is another program's, or damaged.
        """
        self.folder = Path(folder)
        index = self.folder / INDEX
        if not index.exists():
            raise FileNotFoundError(f"{index} is missing: the shards were not written to the end.")
        try:
            self.shards: list[dict[str, Any]] = json.loads(index.read_text())["shards"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{index} is no index of stored latents (a run's --output has a file of this name too); "
                "name a folder of projects/precompute_latents.py, or a folder of clips without such a file"
            ) from error
        self._files: dict[int, safe_open] = {}

    def __len__(self) -> int:
        return sum(len(shard["identities"]) for shard in self.shards)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def read(self, shard: int, row: int) -> dict[str, Any]:
        """One sample: its tensors and `identity`."""
        if shard not in self._files:
            self._files[shard] = safe_open(self.folder / self.shards[shard]["file"], framework="pt")
        file = self._files[shard]
        tensors = {name: file.get_slice(name)[row : row + 1][0] for name in file.keys()}
        if TEXT in tensors:
            tensors[TEXT] = tensors[TEXT][: int(tensors.pop(TEXT_TOKENS))]
        return tensors | {"identity": self.shards[shard]["identities"][row]}

    def read_shard(self, shard: int) -> Tensors:
        """All samples of a shard, stacked: [samples, ...]. For data sets that fit on the GPU."""
        with safe_open(self.folder / self.shards[shard]["file"], framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


class ShardDataset(Dataset[list[dict[str, Any]]]):
    """Packed batches of stored samples. `dataset[step]` depends on the same values as that of `ClipDataset`.

    A size is drawn with a probability proportional to its number of samples, and then a sample of this size, with
    replacement.
    """

    def __init__(self, folder: str | Path, budget: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """
        Args:
            folder: the folder of a `ShardWriter`.
            budget: upper limit of the size of one rank's batch, in the unit of the samples' sizes.
            seed, rank, world: as in `ClipDataset`.
        """
        self.reader = ShardReader(folder)
        self.seed, self.rank, self.world = seed, rank, world
        self._places: dict[int, list[tuple[int, int]]] = {}
        for number, shard in enumerate(self.reader.shards):
            rows = [(number, row) for row in range(len(shard["identities"]))]
            self._places.setdefault(shard["size"], []).extend(rows)
        if not self._places:
            raise ValueError(f"{folder} holds no samples.")
        self.planner = BatchPlanner(list(self._places), [len(places) for places in self._places.values()], budget, seed)
        self.planner.warn_if_loose()

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        """The samples of a step on this rank: the stored tensors and `identity`."""
        slots = self.planner.plan(step, self.rank, self.world)
        return [self._sample(step, slot.number, self.planner.sizes[slot.choice]) for slot in slots]

    def fill(self, step: int) -> float:
        """Return which fraction of the budget the batch of a step uses, in (0, 1]."""
        return self.planner.fill(step)

    def _sample(self, step: int, slot: int, size: int) -> dict[str, Any]:
        places = self._places[size]
        place = places[int(slot_generator(self.seed, step, slot).integers(len(places)))]
        sample = self.reader.read(*place)
        return sample | {"identity": f"{sample['identity']} seed={self.seed} step={step} slot={slot}"}


Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def write_latents(
    batches: Callable[[int], Iterable[list[dict[str, Any]]]],
    encode: Encode,
    folder: str | Path,
    job: str = "",
    shard: int = 256,
) -> Path:
    """Encode pairs and store `hq_mean`, `hq_logvar`, `lq_mean`, `lq_logvar` of every sample in 16 bits, and its text.

    Mean and log-variance are stored instead of a drawn latent, so that training draws a new latent each time. An
    interrupted job continues after the last batch whose samples are on disk.

    Args:
        batches: a function from the number of the first batch to the batches, which are those of a `ClipDataset`;
            clips are float32 [3, T, H, W] in [-1, 1].
        encode: the VAE's encoder: one clip to its mean and its log-variance, which have one shape.
        folder: the folder of the shards.
        job: see `ShardWriter`.
        shard: number of samples in a file.

    Returns:
        the path of the index. A sample's size is its number of latent positions, t x h x w of [16, t, h, w].
    """
    with ShardWriter(folder, shard, job) as writer:
        for number, batch in enumerate(batches(writer.done), writer.done + 1):
            for sample in batch:
                tensors = latents_of(sample, encode) | padded_text(sample)
                writer.add(tensors, sample["identity"], size=tensors["hq_mean"][0].numel())
            if number % BATCHES_BETWEEN == 0:
                writer.commit(number)
    return writer.folder / INDEX


def latents_of(sample: dict[str, Any], encode: Encode) -> Tensors:
    """Mean and log-variance of both clips of a sample, [c, t, h, w] each, in the stored dtype."""
    stored = {}
    for name in ("hq", "lq"):
        stored[f"{name}_mean"], stored[f"{name}_logvar"] = (x.to(STORED) for x in encode(sample[name]))
    return stored


def padded_text(sample: dict[str, Any]) -> Tensors:
    """The padded text embedding of a sample and its number of tokens; empty if it has none."""
    if TEXT not in sample:
        return {}
    text = sample[TEXT]
    padding = -len(text) % TEXT_MULTIPLE
    return {TEXT: torch.nn.functional.pad(text, (0, 0, 0, padding)), TEXT_TOKENS: torch.tensor(len(text))}
