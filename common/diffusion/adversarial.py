"""Losses of adversarial post-training (SeedVR2, arXiv 2506.05301; APT, arXiv 2501.08316; AAPT, arXiv 2506.09350).

Logits are one number a sample, [B]; a real sample and the generated one of the same condition stand at the same place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """RpGAN, what the discriminator minimises: softplus(D(x^) - D(x)), mean over pairs."""
    return F.softplus(fake.float() - real.float()).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """RpGAN, what the generator minimises: softplus(D(x) - D(x^)), mean over pairs."""
    return F.softplus(real.float() - fake.float()).mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """NS, what the discriminator minimises: softplus(-D(x)) + softplus(D(x^)), each a mean over samples."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """NS, what the generator minimises: softplus(-D(x^)), mean over samples."""
    return F.softplus(-fake.float()).mean()


def approximated_penalty(logits: Tensor, perturbed: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """aR1 on real, aR2 on generated samples: share (D(x) - D(x + sigma eps))^2, mean over samples.

    A finite difference for the gradient penalty: second-order gradients and sharding do not go together.

    Args:
        share: of each sample [B], or of all, see `penalty_share`.
    """
    return (share * (logits.float() - perturbed.float()).square()).mean()


def penalty_share(values: Tensor, reference: float | None) -> Tensor | float:
    """How much of the full penalty a sample gets: its number of latent values over a reference, at most one.

    The penalty costs lambda sigma^2 |grad D|^2, and what the discriminator gains by a gradient grows with the distance
    of real and generated samples, hence with the number of values. One lambda for all is a far shorter leash on a
    small sample.

    Args:
        values: [B] latent values (t h w c) of each sample.
        reference: where the penalty counts in full; None: everywhere.
    """
    return 1.0 if reference is None else (values.float() / reference).clamp(max=1.0)


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor], row_shares: Sequence[Tensor]) -> Tensor:
    """L1 distance of a discriminator's features, mean over its layers, features, tokens of a sample, and samples.

    Args:
        real, fake: one [L, C] a layer, packed tokens; real ones carry no gradient.
        row_shares: [L] a layer, what each token counts; all of a layer's sum to one, here and where the others are.
    """
    layers = [
        ((f.float() - r.detach().float()).abs().mean(1) * share).sum()
        for r, f, share in zip(real, fake, row_shares, strict=True)
    ]
    return torch.stack(layers).mean()


def shifted_uniform_times(
    frames: Tensor, image_shift: float, video_shift: float, T: float, generator: torch.Generator
) -> Tensor:
    """Times at which a discriminator looks: shift(U(0, T), s), s by the kind of sample; float32 [B] in (0, T].

    Args:
        frames: [B] latent frames; one is an image.
        image_shift, video_shift: s of s u / (1 + (s - 1) u).
        generator: on the device of `frames`.
    """
    u = 1 - torch.rand(frames.shape, generator=generator, device=frames.device)  # never 0: there training collapses
    s = torch.where(frames > 1, video_shift, image_shift)
    return s * u / (1 + (s - 1) * u) * T
