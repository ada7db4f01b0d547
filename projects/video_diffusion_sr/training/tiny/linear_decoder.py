"""A loss through a linear decoder: measures how much an error in the latents changes the pixels, to first order.

Latent channels differ widely in their effect on pixels. In the tiny VAE, one channel (the brightness of a block) causes
half of the pixel error, and most others cause a hundredth of it. A transformer trained with the plain squared error of
latents therefore learns mostly what does not show in pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian

LEAST = 0.02  # smallest weight of a direction, relative to the mean: decoding is not linear, so none may be ignored


@dataclass(frozen=True)
class DecoderMetric:
    """Matrices [c, c] that map latent errors to pixel errors, for the first latent frame and for later ones.

    The mean over channels of (error @ matrix)^2 is the mean squared error of the pixels, in [-1, 1]. The first latent
    frame stands for one frame, later ones for several.
    """

    first: Tensor
    later: Tensor

    def to(self, device: torch.device | str) -> "DecoderMetric":
        return DecoderMetric(self.first.to(device), self.later.to(device))

    def __call__(self, error: Tensor, frame_of_row: Tensor) -> Tensor:
        """Map packed latent errors [L0, c], in the transformer's scale, to [L0, c]."""
        is_first = (frame_of_row == 0)[:, None]
        return torch.where(is_first, error @ self.first, error @ self.later)


@torch.no_grad()
def decoder_metric(vae: VideoAutoencoderKL, clips: Iterable[Tensor], scaling_factor: float) -> DecoderMetric:
    """Compute the metric from the least-squares map of latents to the pixels that they stand for.

    Args:
        vae: encodes the clips, on its device.
        clips: [N, 3, T, H, W] in [-1, 1], T > 1.
        scaling_factor: the factor by which the transformer's latents are scaled.

    Raises:
        ValueError: there are no clips.
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
