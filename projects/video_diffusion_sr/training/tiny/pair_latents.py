"""Encodes sets of pairs to latents on the GPU, one set after another during training."""

import time
from bisect import bisect_left
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

PIXELS_AT_ONCE = 8_000_000  # frames x height x width that are encoded in one pass
POLL_S, PATIENCE_S = 1.0, 900.0  # time between two checks for a set; time after which waiting fails


@dataclass(frozen=True)
class ConditionMixing:
    """Mixes conditions with the ground truth, so that the model learns to leave a good input unchanged.

    Synthetic degradation never gives a sharp input, but users have such inputs. A mixed condition is an interpolation
    between the degraded latent and that of the ground truth.

    Attributes:
        mixed: the fraction of samples whose interpolation weight is uniform in [0, 1].
        clean: the fraction of samples whose condition is the ground truth.
    """

    mixed: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixed, self.clean) < 0 or self.mixed + self.clean > 1:
            raise ValueError(
                f"condition_mixing: shares of samples must sum to at most 1, got {self.mixed} and {self.clean}"
            )

    def shares(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Draw the weight of the ground truth in each of `count` conditions, [count] in [0, 1]."""
        kind, share = generator.random((2, count))
        return np.where(kind < self.clean, 1.0, np.where(kind < self.clean + self.mixed, share, 0.0))


@dataclass(frozen=True)
class SetPlan:
    """Decides from which sets of pairs a batch is drawn, by its number and not by the speed of the machine.

    first: number of sets that are read before the first batch.
    every: number of batches after which one more set is read.
    last: number of all sets.
    kept: number of sets, the newest, from which a batch is drawn; 0: all that were read. It bounds the memory.
    """

    first: int
    every: int
    last: int
    kept: int = 0

    def sets(self, batch: int) -> range:
        """The numbers of the sets that batch `batch` is drawn from."""
        end = min(self.last, self.first + batch // self.every)
        return range(max(0, end - self.kept) if self.kept else 0, end)


class PairLatents(BatchSource):
    """Batches of latents from sets of pairs. Batch n depends only on (seed, n) and the plan.

    All samples of a batch have one size. The transformer then needs few layouts and a CUDA graph for each. Square pairs
    are encoded transposed as well; transposing others would add sizes. Only posterior means are kept, so
    `vae.use_sample` must be false.

    Args:
        vae: encodes pairs, on its device.
        folder: the folder of `set_000`, `set_001`, ... A set that a batch needs and that does not exist is waited for.
        budget: about the number of latent positions (t x h x w) of a batch.
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
        self.held = range(0)
        self.latents: dict[Size3, list[tuple[Tensor, Tensor]]] = {}  # chunks of hq, lq: [N, positions, c] float16
        self.names: dict[Size3, list[str]] = {}
        self.origins: dict[Size3, list[int]] = {}  # the number of each sample's set, ascending

    def read(self, sets: range) -> None:
        """Hold these sets: read and encode those that are missing, and drop older ones.

        Raises:
            FileNotFoundError: a set was not written within `PATIENCE_S`.
        """
        if sets.stop <= self.held.stop:
            return
        self._drop_before(sets.start)
        for number in range(max(sets.start, self.held.stop), sets.stop):
            folder = self.folder / f"set_{number:03d}"
            wait_for(folder / INDEX)
            reader = ShardReader(folder)
            for place, shard in enumerate(reader.shards):
                pairs = reader.read_shard(place)
                height, width = pairs["hq"].shape[2:4]
                for transposed in (False, True) if height == width else (False,):
                    self._add(number, pairs["hq"], pairs["lq"], shard["identities"], transposed)
        self.held = sets
        self._join()
        counts = {size: len(names) for size, names in self.names.items()}
        logger.info("sets of pairs up to %d, samples by latent size: %s", sets.stop, counts)

    def _drop_before(self, first: int) -> None:
        for size, origins in list(self.origins.items()):
            dropped = bisect_left(origins, first)
            if dropped == len(origins):
                del self.latents[size], self.names[size], self.origins[size]
            elif dropped:
                hq, lq = self.latents[size][0]
                self.latents[size] = [(hq[dropped:].clone(), lq[dropped:].clone())]
                del self.names[size][:dropped], origins[:dropped]

    @torch.no_grad()
    def _add(self, number: int, hq: Tensor, lq: Tensor, names: list[str], transposed: bool) -> None:
        """Encode pairs of set `number`, uint8 [N, T, H, W, 3] and [N, T, h, w, 3], and keep the latents on the device.

        `transposed` swaps height and width. (Pairs are mirrored left to right when they are made.)
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
            part = names[start : start + at_once]
            self.names.setdefault(size, []).extend(name + mark for name in part)
            self.origins.setdefault(size, []).extend([number] * len(part))

    def _join(self) -> None:
        """Concatenate the chunks of each size, so that a batch is one gather."""
        for size, chunks in self.latents.items():
            if len(chunks) > 1:
                self.latents[size] = [(torch.cat([hq for hq, _ in chunks]), torch.cat([lq for _, lq in chunks]))]

    def batches(self, start: int) -> Iterator[PosteriorBatch]:
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> PosteriorBatch:
        """Batch `number`. Its size is drawn in proportion to the latent positions of that size, then its samples.

        Read batches in order, because sets that were dropped are not read again.
        """
        self.read(self.plan.sets(number))
        generator = slot_generator(self.seed, number, 0)
        sizes = sorted(self.latents)
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
    """Wait until a file exists; FileNotFoundError after `PATIENCE_S` seconds."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        if path.is_file():
            return
        time.sleep(POLL_S)
    raise FileNotFoundError(f"{path} was not written; start `projects/train_tiny.py pairs` with the same --output")
