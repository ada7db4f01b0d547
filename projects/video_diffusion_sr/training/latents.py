"""Converts pixels, or stored posterior parameters, to packed latents of ground truths and degraded clips."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.distributed.row_parallel import UnshardedClip
from data.training.model_range import to_model_range, upsample_to_model_range
from data.video.framing import latent_frames
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL, unshard_pixels
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from projects.video_diffusion_sr.training.packed import ShapeCache, Shapes, Size3, pack

POSTERIOR_KEYS = ("hq_mean", "hq_logvar", "lq_mean", "lq_logvar")


@dataclass(frozen=True)
class PosteriorBatch:
    """A batch of posterior parameters on the device, from a source that keeps its data there.

    hq_mean, hq_logvar, lq_mean, lq_logvar: [L0, c].
    sizes: latent (t, h, w) of every sample.
    names: identities of the samples.
    texts: the text embedding [tokens, width] of each sample, or None; empty if no sample has one.
    """

    hq_mean: Tensor
    hq_logvar: Tensor
    lq_mean: Tensor
    lq_logvar: Tensor
    sizes: tuple[Size3, ...]
    names: tuple[str, ...]
    texts: tuple[Tensor | None, ...] = ()


@dataclass(frozen=True)
class LatentPairs:
    """Packed latents of ground truths and degraded clips, [L0, c] float32, scaled as the transformer reads them.

    texts: the text embedding of each sample, float32 [tokens, width], or None.
    """

    hq: Tensor
    lq: Tensor
    shapes: Shapes
    texts: tuple[Tensor | None, ...]


@dataclass
class LatentEncoder:
    """Encodes any kind of batch as `LatentPairs`.

    Attributes:
        vae: encodes pixels; None if all batches hold stored posterior parameters.
        scaling_factor: the factor by which latents are multiplied.
        use_sample: sample from the posterior instead of using its mean.
        grouping: encode clips of one size in one batch; False encodes them one by one, which needs less memory.
        parallel: the ranks that share every clip; each encodes some rows of its pictures.
    """

    vae: VideoAutoencoderKL | None
    scaling_factor: float
    use_sample: bool
    grouping: bool = False
    parallel: Parallel | None = None

    @torch.no_grad()
    def __call__(self, batch: Any, cache: ShapeCache, generator: torch.Generator) -> LatentPairs:
        """Encode a batch.

        Args:
            batch: a `PosteriorBatch`, or samples with stored posterior parameters [c, t, h, w], or samples with pixels
                `hq`, `lq`. Pixels are float32 [3, T, H, W] in [-1, 1], or uint8 [T, H, W, 3] with `lq` not enlarged.
        """
        moments = batch if isinstance(batch, PosteriorBatch) else self._posterior_batch(batch, cache.device)
        hq = self._draw(moments.hq_mean, moments.hq_logvar, generator)
        lq = self._draw(moments.lq_mean, moments.lq_logvar, generator)
        return LatentPairs(hq, lq, cache.shapes(moments.sizes), moments.texts or (None,) * len(moments.sizes))

    def _draw(self, mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
        mean = mean.float()
        if self.use_sample:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + (0.5 * logvar.float()).exp() * noise
        return mean * self.scaling_factor

    def _posterior_batch(self, samples: list[dict[str, Any]], device: torch.device | str) -> PosteriorBatch:
        names = tuple(sample["identity"] for sample in samples)
        texts = tuple(s["text"].to(device, torch.float32) if "text" in s else None for s in samples)
        if "hq_mean" in samples[0]:
            packed = [pack([s[name].to(device, non_blocking=True) for s in samples]) for name in POSTERIOR_KEYS]
            return _packed_batch(packed, names, texts)
        if self.vae is None:
            raise ValueError(f"{names[0]} is a clip of pixels and there is no VAE to encode it; precompute latents")
        pairs = [pixels_of(sample, device) for sample in samples]
        hq = self._encode(self.vae, [hq for hq, _ in pairs])
        lq = self._encode(self.vae, [lq for _, lq in pairs])
        return _packed_batch([pack(part) for part in (*hq, *lq)], names, texts)

    def _encode(self, vae: VideoAutoencoderKL, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and log-variance [c, t, h, w] of each clip [3, T, H, W]."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for i, clip in enumerate(clips):
            groups[tuple(clip.shape) if self.grouping else i].append(i)
        encoded: dict[int, tuple[Tensor, Tensor]] = {}
        weight = next(vae.parameters())
        for members in groups.values():
            stacked = torch.stack([clips[i] for i in members]).to(weight)
            with torch.autocast(weight.device.type, enabled=False):  # the VAE computes in the dtype of its weights
                posterior = DiagonalGaussian(self._encode_rows(vae, stacked))
            for row, i in enumerate(members):
                encoded[i] = posterior.mean[row], posterior.logvar[row]
        return [encoded[i][0] for i in range(len(clips))], [encoded[i][1] for i in range(len(clips))]

    def _encode_rows(self, vae: VideoAutoencoderKL, clips: Tensor) -> Tensor:
        """Posterior parameters of clips [B, 3, T, H, W]; each rank encodes a block of rows."""
        height, scale = clips.shape[3], vae.spatial_factor
        rows = UnshardedClip() if self.parallel is None else self.parallel.rows(height // scale)
        if rows.holds_rows:
            moments = vae.encode_parameters(rows.shard(clips, 3, scale), rows.exchange, height)  # B 2c t own w
        else:
            frames = latent_frames(clips.shape[2], vae.temporal_factor)
            moments = clips.new_empty(len(clips), 2 * vae.latent_channels, frames, 0, clips.shape[4] // scale)
        return unshard_pixels(rows, moments)


def _packed_batch(
    packed: Sequence[tuple[Tensor, list[Size3]]], names: tuple[str, ...], texts: tuple[Tensor | None, ...]
) -> PosteriorBatch:
    """A batch of what `pack` made of the four kinds of parameters, in the order of `POSTERIOR_KEYS`."""
    hq_mean, hq_logvar, lq_mean, lq_logvar = (rows for rows, _ in packed)
    return PosteriorBatch(hq_mean, hq_logvar, lq_mean, lq_logvar, tuple(packed[0][1]), names, texts)


def pixels_of(sample: dict[str, Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The ground truth and the enlarged degraded clip of a sample, [3, T, H, W] float32 in [-1, 1] on the device."""
    hq, lq = (sample[name].to(device, non_blocking=True) for name in ("hq", "lq"))
    if hq.dtype == torch.uint8:
        lq = upsample_to_model_range(lq, hq.shape[1], hq.shape[2])
        hq = to_model_range(hq)
    return hq, lq
