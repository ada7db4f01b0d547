"""Errors as a linear decoder shows them: how much an error in the latents moves the pixels, to first order.

A VAE's channels differ widely in what they move. In the tiny one a single channel, a block's brightness, carries half
of all pixel error and most others carry a hundredth of it, so a transformer trained by plain squared error spends
itself on latents that nobody sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian

LEAST = 0.02  # of the mean weight, for every direction: decoding is not linear, so none may drift


@dataclass(frozen=True)
class DecoderMetric:
    """Factors [c, c] of the form, for the first latent frame (which holds one frame) and for the others.

    The mean over channels of (error @ factor)^2 is the mean squared error of the pixels, in [-1, 1].
    """

    first: Tensor
    later: Tensor

    def to(self, device: torch.device | str) -> "DecoderMetric":
        return DecoderMetric(self.first.to(device), self.later.to(device))

    def __call__(self, error: Tensor, frame_of_row: Tensor) -> Tensor:
        """Packed latent errors [L0, c], scaled as the transformer sees them -> [L0, c]."""
        is_first = (frame_of_row == 0)[:, None]
        return torch.where(is_first, error @ self.first, error @ self.later)


@torch.no_grad()
def decoder_metric(vae: VideoAutoencoderKL, clips: Iterable[Tensor], scaling_factor: float) -> DecoderMetric:
    """From the least-squares map of latents to the pixels below them.

    Args:
        vae: encodes on the device it is on.
        clips: [N, 3, T, H, W] in [-1, 1], T > 1.
        scaling_factor: of the latents that the metric is for.

    Raises:
        ValueError: there is no clip.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for clip in clips:
        latent = DiagonalGaussian(vae.encode_parameters(clip.to(next(vae.parameters())))).mode()  # n c t h w
        space, time = vae.spatial_factor, vae.temporal_factor
        by_kind = {
            "first": (latent[:, :, :1], clip[:, :, :1], 1),
            "later": (latent[:, :, 1:], clip[:, :, 1:], time),
        }
        for name, (z, pixels, frames) in by_kind.items():
            given = rearrange(z, "n c t h w -> (n t h w) c").double()
            given = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
            below = rearrange(pixels, "n c (t f) (h a) (w b) -> (n t h w) (c f a b)", f=frames, a=space, b=space)
            normal, mixed = given.T @ given, given.T @ below.to(given)
            sums[name] = (sums[name][0] + normal, sums[name][1] + mixed) if name in sums else (normal, mixed)
    if not sums:
        raise ValueError("the metric needs clips of several frames, and there are none; make pairs with frames > 1")
    return DecoderMetric(*(_factor(*sums[name], scaling_factor) for name in ("first", "later")))


def _factor(normal: Tensor, mixed: Tensor, scaling_factor: float) -> Tensor:
    ridge = 1e-6 * normal.diagonal().mean() * torch.eye(len(normal), device=normal.device)
    to_pixels = torch.linalg.solve(normal + ridge, mixed)[:-1] / scaling_factor  # c outputs
    channels, outputs = to_pixels.shape
    form = to_pixels @ to_pixels.T * (channels / outputs)
    values, vectors = torch.linalg.eigh(form)
    values = values.clamp(min=LEAST * values.mean())
    return (vectors * values.sqrt()).float()
