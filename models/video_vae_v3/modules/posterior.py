"""The posterior of the VAE: a diagonal Gaussian over the latents of a clip."""

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian:
    """mean, logvar: [B, latent_channels, t, h, w] each; the log variance is clamped to [-30, 20]."""

    def __init__(self, parameters: Tensor) -> None:
        """parameters: [B, 2 * latent_channels, t, h, w], means first."""
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(*LOGVAR_RANGE)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """mean + exp(logvar / 2) * noise; without `noise`, it is drawn from torch's default generator."""
        noise = torch.randn_like(self.mean) if noise is None else noise.to(self.mean)
        return self.mean + (0.5 * self.logvar).exp() * noise
