"""Samples computed once and read many times: stacked tensors in safetensors shards with an index beside them.

Latents, and pairs of clips, are stored this way. A shard holds samples of equal shapes:

    shard-00000.safetensors   every tensor stacked: [samples, ...]
    progress.json             the shards so far, so that an interrupted job can continue
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
TEXT, TEXT_TOKENS = "text", "text_tokens"  # a text embedding, and how many of its rows are no padding
TEXT_MULTIPLE = 64  # texts are padded to a multiple of this many tokens: few shapes, hence few shards
BATCHES_BETWEEN = 64  # batches of latents between two writes of progress.json
STORED = torch.float16  # of latents: 11 bits of precision, and no latent comes near its range
Tensors = dict[str, torch.Tensor]


class ShardWriter:
    """Collects samples and writes shards; use as a context manager. After an error no index is written.

    Args:
        folder: new, or left unfinished by an earlier writer of the same `job`: its progress is taken over.
        samples_per_shard: the most in one file.
        job: a description of the content; only the same job continues in a folder.

    Attributes:
        done: the number that was last given to `commit`; 0 in a new folder.

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
            tensors: what to store, any shapes and dtypes that safetensors supports.
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
        """Write the remaining samples, then the index; returns the path of the index."""
        self._write_waiting()
        path = self.folder / INDEX
        write_json({"version": 1, "shards": self._shards}, path)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        return path

    def commit(self, done: int) -> None:
        """Write the remaining samples and the progress: a later writer starts with this number in `done`."""
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
        self.shards: list[dict[str, Any]] = json.loads(index.read_text())["shards"]
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
        """The share of the budget that the batch of a step uses, in (0, 1]."""
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
    """Encode pairs once: `hq_mean`, `hq_logvar`, `lq_mean`, `lq_logvar` of every sample, in 16 bits, and its text.

    Mean and log-variance are kept rather than a draw, so that training draws anew each time. A job that was interrupted
    goes on after the last batches whose samples are on disk.

    Args:
        batches: given the number of the first one, batches as a `ClipDataset` yields them, clips float32 [3, T, H, W]
            in [-1, 1].
        encode: the VAE's encoder: one clip to mean and log-variance, both of one shape.
        folder: where the shards go.
        job: see `ShardWriter`.
        shard: samples in a file.

    Returns:
        the index's path. A sample's size is the number of latent positions, t x h x w of [16, t, h, w].
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
    """The four posterior parameters of a sample [c, t, h, w], as they are stored."""
    stored = {}
    for name in ("hq", "lq"):
        stored[f"{name}_mean"], stored[f"{name}_logvar"] = (x.to(STORED) for x in encode(sample[name]))
    return stored


def padded_text(sample: dict[str, Any]) -> Tensors:
    """A sample's text embedding, if it has one, as it is stored."""
    if TEXT not in sample:
        return {}
    text = sample[TEXT]
    padding = -len(text) % TEXT_MULTIPLE
    return {TEXT: torch.nn.functional.pad(text, (0, 0, 0, padding)), TEXT_TOKENS: torch.tensor(len(text))}
