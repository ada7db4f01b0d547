"""Measures mean and standard deviation of a VAE's latent channels, and normalises each channel to unit deviation.

The transformer's losses, and the noise of the adversarial penalties, treat all channels alike, but the deviations of a
VAE's channels differ by large factors, which the single `vae.scaling_factor` does not change. Here the encoder's last
layer divides every channel by its deviation, and the decoder's first layer multiplies by it. Decoded pixels stay the
same, and inference only needs `vae.scaling_factor=1`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian

SCALING_FACTOR = "scaling_factor"  # a key in the header of a weight file


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each channel, [c] float64, over positions and clips, for sampled latents."""

    mean: Tensor
    std: Tensor

    @property
    def scaling_factor(self) -> float:
        """One over the standard deviation of all channels together: `vae.scaling_factor` for a VAE without `fold`."""
        within, between = self.std.square().mean(), self.mean.var(correction=0)
        return float((within + between) ** -0.5)

    def header(self, scaling_factor: float) -> dict[str, str]:
        """The header of a weight file with these statistics."""
        mean, std = ([round(x, 5) for x in values.tolist()] for values in (self.mean, self.std))
        return {
            SCALING_FACTOR: f"{scaling_factor:.4f}",
            "latent_mean": json.dumps(mean),
            "latent_std": json.dumps(std),
        }


@torch.no_grad()
def measure(vae: VideoAutoencoderKL, clips: Iterable[Tensor]) -> LatentStatistics:
    """Measure the statistics over clips [B, 3, T, H, W] in [-1, 1], on the VAE's device; ValueError without clips."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for clip in clips:
        posterior = DiagonalGaussian(vae.encode_parameters(clip.to(next(vae.parameters()))))
        mean = posterior.mean.double().movedim(1, 0).flatten(1)  # c positions
        variance = posterior.logvar.double().exp().movedim(1, 0).flatten(1)
        count += mean.shape[1]
        total = total.to(mean) + mean.sum(1)
        squares = squares.to(mean) + (mean.square() + variance).sum(1)
    if not count:
        raise ValueError("the spread of latents is measured on clips, and there are none; give --data")
    mean = total / count
    return LatentStatistics(mean.cpu(), (squares / count - mean.square()).clamp(min=1e-12).sqrt().cpu())


@torch.no_grad()
def fold(vae: VideoAutoencoderKL, statistics: LatentStatistics) -> LatentStatistics:
    """Divide every channel by its standard deviation, in place. Returns the statistics after it.

    Means are kept, because the decoder pads with zeros and could not undo a shift exactly at the borders.
    """
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    std = statistics.std.to(last.weight)
    channels = len(std)
    last.weight[:channels] /= std[:, None, None, None, None]
    last.bias[:channels] /= std
    last.bias[channels:] -= 2 * std.log()  # the log-variances
    first.weight *= std[None, :, None, None, None]
    return LatentStatistics(statistics.mean / statistics.std, torch.ones_like(statistics.std))


def stated_scale(path: Path) -> float | None:
    """The scaling factor that a weight file states; None if it states none."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(SCALING_FACTOR)
    return None if stated is None else float(stated)
