"""Sets of pairs as latents that live on the GPU; square ones are encoded transposed, too."""

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
from projects.video_diffusion_sr.training.latents import MomentBatch
from projects.video_diffusion_sr.training.packed import Size3
from projects.video_diffusion_sr.training.stage import Source

logger = get_logger(__name__)

PIXELS_AT_ONCE = 8_000_000  # frames x height x width through the encoder in one pass
BATCHES_BETWEEN = 500  # two looks for new sets


@dataclass(frozen=True)
class Milder:
    """Conditions better than the degraded clip, so that a good input passes unharmed.

    Synthetic degradation never shows the model a sharp input, which users have; without such pairs it is free to do
    anything to one. A milder condition is the degraded latent moved towards the truth's by a share.

    Attributes:
        mixed: how many of the samples are moved by a share drawn evenly from [0, 1].
        clean: how many are moved all the way.
    """

    mixed: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixed, self.clean) < 0 or self.mixed + self.clean > 1:
            raise ValueError(f"milder: shares of samples must sum to at most 1, got {self.mixed} and {self.clean}")

    def shares(self, count: int, dice: np.random.Generator) -> np.ndarray:
        """How far each of `count` conditions is moved towards its truth, [count] in [0, 1]."""
        kind, share = dice.random((2, count))
        return np.where(kind < self.clean, 1.0, np.where(kind < self.clean + self.mixed, share, 0.0))


class PairLatents(Source):
    """Batches of one size each, of about `budget` latent positions; batch n follows from (seed, n) and the sets read.

    One size a batch keeps the transformer's layouts few, which are compiled one by one; hence only square pairs are
    transposed. Posterior means are kept alone, so `vae.use_sample` must be false.

    Args:
        vae: encodes on the device it is on.
        budget: latent positions (t x h x w) of a batch.
        milder: which conditions are not degraded in full.
    """

    def __init__(self, vae: VideoAutoencoderKL, budget: int, seed: int, milder: Milder | None = None) -> None:
        self.vae, self.budget, self.seed = vae, budget, seed
        self.milder = milder or Milder()
        self.device = next(vae.parameters()).device
        self.read: set[str] = set()
        self.latents: dict[Size3, list[tuple[Tensor, Tensor]]] = {}  # chunks of hq, lq: [N, positions, c] float16
        self.names: dict[Size3, list[str]] = {}
        self.folder: Path | None = None

    def follow(self, folder: Path) -> None:
        """Read the sets in `folder`, now and again while `batches` are drawn."""
        self.folder = folder
        self.refresh(folder)

    def refresh(self, folder: Path) -> None:
        """Encode the sets in `folder` that were finished since the last call."""
        before = len(self.read)
        for index in sorted(folder.glob(f"*/{INDEX}")):
            if index.parent.name in self.read:
                continue
            self.read.add(index.parent.name)
            reader = ShardReader(index.parent)
            for number, shard in enumerate(reader.shards):
                pairs = reader.read_shard(number)
                height, width = pairs["hq"].shape[2:4]
                for turned in (False, True) if height == width else (False,):
                    self._add(pairs["hq"], pairs["lq"], shard["identities"], turned)
        self.join()
        counts = {size: len(names) for size, names in self.names.items()}
        if len(self.read) > before:
            logger.info("%d sets of pairs, samples by latent size: %s", len(self.read), counts)

    @torch.no_grad()
    def _add(self, hq: Tensor, lq: Tensor, names: list[str], turned: bool) -> None:
        """Pairs uint8 [N, T, H, W, 3] and [N, T, h, w, 3] -> latents, kept on the device.

        Pairs are mirrored left to right when they are cut; `turned` puts rows for columns.
        """
        at_once = max(1, PIXELS_AT_ONCE // hq[0, ..., 0].numel())
        for start in range(0, len(hq), at_once):
            large, small = (x[start : start + at_once].to(self.device) for x in (hq, lq))
            if turned:
                large, small = large.transpose(2, 3), small.transpose(2, 3)
            height, width = large.shape[2:4]
            encoded = []
            for clips in (to_model_range(large), upsample_to_model_range(small, height, width)):
                latent = self.vae.encode(clips.to(next(self.vae.parameters()).dtype)).latent  # n c t h w
                encoded.append(latent.permute(0, 2, 3, 4, 1).flatten(1, 3).half())
            size = tuple(latent.shape[2:])
            self.latents.setdefault(size, []).append(tuple(encoded))
            mark = " transposed" if turned else ""
            self.names.setdefault(size, []).extend(name + mark for name in names[start : start + at_once])

    def join(self) -> None:
        """Chunks of one size as one tensor, so that a batch is one gather."""
        for size, chunks in self.latents.items():
            if len(chunks) > 1:
                self.latents[size] = [tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))]

    def spread(self) -> float:
        """Standard deviation of the ground truths' latents, all channels together (their means are near zero)."""
        squares = [(hq.float().square().mean(), hq.numel()) for chunks in self.latents.values() for hq, _ in chunks]
        return float(sum(s * n for s, n in squares) / sum(n for _, n in squares)) ** 0.5

    def batches(self, start: int) -> Iterator[MomentBatch]:
        """See `loop.Source`."""
        number = start
        while True:
            if self.folder is not None and (number - start) % BATCHES_BETWEEN == BATCHES_BETWEEN - 1:
                self.refresh(self.folder)
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> MomentBatch:
        """Batch `number`: a size drawn by its share of all latent positions, then samples with replacement."""
        dice = slot_generator(self.seed, number, 0)
        sizes = list(self.latents)
        weights = [len(self.names[size]) * size[0] * size[1] * size[2] for size in sizes]
        return self._draw(sizes[int(dice.choice(len(sizes), p=[w / sum(weights) for w in weights]))], number, dice)

    def one_of_each(self) -> list[MomentBatch]:
        """A batch of every size, for what has to be done once a size before training, as compiling."""
        return [self._draw(size, 0, slot_generator(self.seed, 0, 1)) for size in self.latents]

    def _draw(self, size: Size3, number: int, dice: np.random.Generator) -> MomentBatch:
        count = max(1, self.budget // (size[0] * size[1] * size[2]))
        rows = dice.integers(len(self.names[size]), size=count)
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        hq, lq = (x.index_select(0, index) for x in self.latents[size][0])
        shares = torch.from_numpy(self.milder.shares(count, dice)).to(self.device, hq.dtype, non_blocking=True)
        lq = lq.lerp(hq, shares[:, None, None])
        hq, lq = hq.flatten(0, 1), lq.flatten(0, 1)
        names = tuple(f"{self.names[size][row]} batch={number}" for row in rows)
        return MomentBatch(hq, hq, lq, lq, (size,) * count, names)  # the log-variances are not read


@torch.no_grad()
def start_from_condition(dit: torch.nn.Module, channels: int) -> None:
    """Make a fresh transformer without a tail answer v = x_t - condition at once, plus what its blocks add.

    At t = T that is a restoration which returns its input: training starts from there, and the noise, which the answer
    must hold exactly, has a straight way through.

    Raises:
        ValueError: a transformer with a norm in that way, or too narrow.
    """
    positions = dit.config.patch_size[0] * dit.config.patch_size[1] * dit.config.patch_size[2]
    if dit.config.tail or positions * channels > dit.config.dim:
        raise ValueError(f"this start needs vid_out_norm: null and a width of at least {positions * channels}")
    kept = positions * channels
    into = dit.vid_in.proj.weight[:kept].zero_().view(positions, channels, positions, -1)
    dit.vid_in.proj.bias[:kept] = 0
    for p in range(positions):
        for c in range(channels):
            into[p, c, p, c], into[p, c, p, channels + c] = 1, -1
    dit.vid_out.proj.weight.zero_()[:, :kept].fill_diagonal_(1)
    dit.vid_out.proj.bias.zero_()
