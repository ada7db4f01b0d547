"""Losses of adversarial post-training (SeedVR2, arXiv 2506.05301; APT, arXiv 2501.08316; AAPT, arXiv 2506.09350).

Logits are one number per sample, [B]. A real and a generated sample of the same condition have the same index.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's relativistic loss (RpGAN): softplus(D(x^) - D(x)), averaged over pairs."""
    return F.softplus(fake.float() - real.float()).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The generator's relativistic loss (RpGAN): softplus(D(x) - D(x^)), averaged over pairs."""
    return F.softplus(real.float() - fake.float()).mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's non-saturating loss: softplus(-D(x)) + softplus(D(x^)), each averaged over samples."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """The generator's non-saturating loss: softplus(-D(x^)), averaged over samples."""
    return F.softplus(-fake.float()).mean()


def approximated_penalty(logits: Tensor, perturbed: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """The approximated gradient penalty: share (D(x) - D(x + sigma eps))^2, averaged over samples.

    It is called aR1 on real and aR2 on generated samples. A finite difference replaces the gradient penalty, because
    FSDP does not support second-order gradients.

    Args:
        logits, perturbed: [B], D(x) and D(x + sigma eps).
        share: the fraction of the full penalty, for each sample [B] or for all, see `penalty_share`.
    """
    return (share * (logits.float() - perturbed.float()).square()).mean()


def penalty_share(values: Tensor, reference: float | None) -> Tensor | float:
    """The fraction of the full penalty that a sample gets: its number of latent values over a reference, at most one.

    The penalty is about lambda sigma^2 |grad D|^2, while the benefit of a gradient to the discriminator grows with the
    distance between real and generated samples, hence with the number of values. One lambda for all sizes therefore
    restricts the discriminator far more on small samples.

    Args:
        values: [B], number of latent values (t h w c) of each sample.
        reference: number of values from which a sample gets the full penalty; None: all samples get it.
    """
    return 1.0 if reference is None else (values.float() / reference).clamp(max=1.0)


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor], row_shares: Sequence[Tensor]) -> Tensor:
    """The L1 distance of the discriminator's features, averaged over layers, features, tokens and samples.

    Args:
        real, fake: for each layer [L, C], features of packed tokens; the real ones carry no gradient.
        row_shares: for each layer [L], the weight of each token; their sum over all ranks is one.
    """
    layers = [
        ((f.float() - r.detach().float()).abs().mean(1) * share).sum()
        for r, f, share in zip(real, fake, row_shares, strict=True)
    ]
    return torch.stack(layers).mean()


def shifted_uniform_times(
    frames: Tensor, image_shift: float, video_shift: float, T: float, generator: torch.Generator
) -> Tensor:
    """Draw the discriminator's input times: shift(U(0, T), s) = T s u / (1 + (s - 1) u); float32 [B] in (0, T].

    Args:
        frames: [B], number of latent frames of each sample; a sample with one frame is an image.
        image_shift, video_shift: s for images and for clips.
        generator: a generator on the device of `frames`.
    """
    u = 1 - torch.rand(frames.shape, generator=generator, device=frames.device)  # never 0, where training collapses
    s = torch.where(frames > 1, video_shift, image_shift)
    return s * u / (1 + (s - 1) * u) * T
