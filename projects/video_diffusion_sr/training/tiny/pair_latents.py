"""Sets of pairs as latents on the GPU, read one after another during training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.logger import get_logger
from data.training.latent_shards import INDEX, ShardReader
from data.training.model_range import to_model_range, upsample_to_model_range
from data.training.sampling import slot_generator
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from projects.video_diffusion_sr.training.latents import PosteriorBatch
from projects.video_diffusion_sr.training.packed import Size3, size_of
from projects.video_diffusion_sr.training.stage import BatchSource

logger = get_logger(__name__)

PIXELS_AT_ONCE = 8_000_000  # frames x height x width through the encoder in one pass
POLL_S, PATIENCE_S = 1.0, 900.0  # between two checks for a set; until the wait for it fails


@dataclass(frozen=True)
class ConditionMixing:
    """Mix conditions with the ground truth, so that a good input passes unharmed.

    Synthetic degradation never shows the model a sharp input, which users have; without such pairs it is free to do
    anything to one. A mixed condition is the degraded latent moved towards the truth's by a share.

    Attributes:
        mixed: how many of the samples are moved by a share drawn evenly from [0, 1].
        clean: how many are moved all the way.
    """

    mixed: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixed, self.clean) < 0 or self.mixed + self.clean > 1:
            raise ValueError(
                f"condition_mixing: shares of samples must sum to at most 1, got {self.mixed} and {self.clean}"
            )

    def shares(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """How far each of `count` conditions is moved towards its truth, [count] in [0, 1]."""
        kind, share = generator.random((2, count))
        return np.where(kind < self.clean, 1.0, np.where(kind < self.clean + self.mixed, share, 0.0))


@dataclass(frozen=True)
class SetPlan:
    """Which sets of pairs a batch is drawn from. It depends on the step, not on the speed of the machine.

    first: number of sets read before the first batch. every: batches between two further sets. last: number of all
        sets.
    """

    first: int
    every: int
    last: int

    def count(self, batch: int) -> int:
        """The number of sets that batch `batch` is drawn from."""
        return min(self.last, self.first + batch // self.every)


class PairLatents(BatchSource):
    """Batches of one size each, of about `budget` latent positions; batch n follows from (seed, n) and the plan.

    One size a batch keeps the transformer's layouts few, and each is a CUDA graph of its own. Square pairs are encoded
    transposed as well; others would add sizes. Posterior means are kept alone, so `vae.use_sample` must be false.

    Args:
        vae: encodes on the device it is on.
        folder: holds `set_000`, `set_001`, ..., or will; a set that a batch needs is waited for.
        budget: latent positions (t x h x w) of a batch.
        mixing: how conditions are mixed with the ground truth.
    """

    def __init__(
        self,
        vae: VideoAutoencoderKL,
        folder: Path,
        plan: SetPlan,
        budget: int,
        seed: int,
        mixing: ConditionMixing | None = None,
    ) -> None:
        self.vae, self.folder, self.plan, self.budget, self.seed = vae, folder, plan, budget, seed
        self.mixing = mixing or ConditionMixing()
        self.device = next(vae.parameters()).device
        self.sets_read = 0
        self.latents: dict[Size3, list[tuple[Tensor, Tensor]]] = {}  # chunks of hq, lq: [N, positions, c] float16
        self.names: dict[Size3, list[str]] = {}

    def read(self, count: int) -> None:
        """Encode sets until `count` have been read.

        Raises:
            FileNotFoundError: a set was not written in time.
        """
        if count <= self.sets_read:
            return
        for number in range(self.sets_read, count):
            folder = self.folder / f"set_{number:03d}"
            wait_for(folder / INDEX)
            reader = ShardReader(folder)
            for place, shard in enumerate(reader.shards):
                pairs = reader.read_shard(place)
                height, width = pairs["hq"].shape[2:4]
                for transposed in (False, True) if height == width else (False,):
                    self._add(pairs["hq"], pairs["lq"], shard["identities"], transposed)
        self.sets_read = count
        self._join()
        counts = {size: len(names) for size, names in self.names.items()}
        logger.info("%d sets of pairs, samples by latent size: %s", count, counts)

    @torch.no_grad()
    def _add(self, hq: Tensor, lq: Tensor, names: list[str], transposed: bool) -> None:
        """Pairs uint8 [N, T, H, W, 3] and [N, T, h, w, 3] -> latents, kept on the device.

        Pairs are mirrored left to right when they are cut; `transposed` puts rows for columns.
        """
        at_once = max(1, PIXELS_AT_ONCE // hq[0, ..., 0].numel())
        for start in range(0, len(hq), at_once):
            large, small = (x[start : start + at_once].to(self.device) for x in (hq, lq))
            if transposed:
                large, small = large.transpose(2, 3), small.transpose(2, 3)
            height, width = large.shape[2:4]
            encoded = []
            for clips in (to_model_range(large), upsample_to_model_range(small, height, width)):
                moments = self.vae.encode_parameters(clips.to(next(self.vae.parameters()).dtype))
                latent = DiagonalGaussian(moments).mode()  # n c t h w
                encoded.append(latent.permute(0, 2, 3, 4, 1).flatten(1, 3).half())
            size = size_of(latent[0])
            self.latents.setdefault(size, []).append((encoded[0], encoded[1]))
            mark = " transposed" if transposed else ""
            self.names.setdefault(size, []).extend(name + mark for name in names[start : start + at_once])

    def _join(self) -> None:
        """Chunks of one size as one tensor, so that a batch is one gather."""
        for size, chunks in self.latents.items():
            if len(chunks) > 1:
                self.latents[size] = [(torch.cat([hq for hq, _ in chunks]), torch.cat([lq for _, lq in chunks]))]

    def batches(self, start: int) -> Iterator[PosteriorBatch]:
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> PosteriorBatch:
        """Batch `number`: a size drawn by its share of all latent positions, then samples with replacement.

        Sets stay in memory once they are read, so read batches in order.
        """
        self.read(self.plan.count(number))
        generator = slot_generator(self.seed, number, 0)
        sizes = list(self.latents)
        weights = [len(self.names[size]) * size[0] * size[1] * size[2] for size in sizes]
        return self._draw(
            sizes[int(generator.choice(len(sizes), p=[w / sum(weights) for w in weights]))], number, generator
        )

    def _draw(self, size: Size3, number: int, generator: np.random.Generator) -> PosteriorBatch:
        count = max(1, self.budget // (size[0] * size[1] * size[2]))
        rows = generator.integers(len(self.names[size]), size=count)
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        hq, lq = (x.index_select(0, index) for x in self.latents[size][0])
        shares = torch.from_numpy(self.mixing.shares(count, generator)).to(self.device, hq.dtype, non_blocking=True)
        lq = lq.lerp(hq, shares[:, None, None])
        hq, lq = hq.flatten(0, 1), lq.flatten(0, 1)
        names = tuple(f"{self.names[size][row]} batch={number}" for row in rows)
        return PosteriorBatch(hq, hq, lq, lq, (size,) * count, names)  # the log-variances are not read


def wait_for(path: Path) -> None:
    """Wait until a file exists; FileNotFoundError after `PATIENCE_S`."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        if path.is_file():
            return
        time.sleep(POLL_S)
    raise FileNotFoundError(f"{path} was not written; start `projects/train_tiny.py pairs` with the same --output")
