"""The losses of adversarial post-training against plain re-derivations, sample by sample."""

import math

import pytest
import torch

from common.diffusion.adversarial import (
    approximated_penalty,
    feature_matching,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    shifted_uniform_times,
)

REAL, FAKE = [0.3, -1.2, 4.0], [-0.7, 0.5, 3.0]


def plus(u: float) -> float:
    return math.log(1 + math.exp(u))


def test_relativistic_losses_compare_pairs():
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    expected_d = sum(plus(f - r) for r, f in zip(REAL, FAKE, strict=True)) / 3
    expected_g = sum(plus(r - f) for r, f in zip(REAL, FAKE, strict=True)) / 3
    assert relativistic_discriminator_loss(real, fake).item() == pytest.approx(expected_d, rel=1e-6)
    assert relativistic_generator_loss(real, fake).item() == pytest.approx(expected_g, rel=1e-6)


def test_the_discriminator_is_pushed_to_call_real_more_real():
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    relativistic_discriminator_loss(real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()  # descent raises real logits, lowers generated ones


def test_the_penalty_is_a_finite_difference_of_the_gradient():
    """E (D(x) - D(x + sigma eps))^2 = sigma^2 |grad D|^2 for a linear D."""
    torch.manual_seed(0)
    slope, sigma = torch.randn(8, dtype=torch.float64), 0.1
    x = torch.randn(50000, 8, dtype=torch.float64)
    noisy = x + sigma * torch.randn_like(x)
    expected = sigma**2 * slope.square().sum()
    torch.testing.assert_close(approximated_penalty(x @ slope, noisy @ slope), expected.float(), rtol=0.03, atol=0)
    plain = sum((a - b) ** 2 for a, b in zip(REAL, FAKE, strict=True)) / 3
    assert approximated_penalty(torch.tensor(REAL), torch.tensor(FAKE)).item() == pytest.approx(plain, rel=1e-6)


def test_feature_matching_weighs_samples_alike_and_leaves_real_features_alone():
    torch.manual_seed(0)
    counts, width, layers = [2, 6], 3, 3
    real = [torch.randn(8, width, requires_grad=True) for _ in range(layers)]
    fake = [torch.randn(8, width, requires_grad=True) for _ in range(layers)]
    share = torch.cat([torch.full((n,), 1 / (2 * n)) for n in counts])
    expected = 0.0
    for r, f in zip(real, fake, strict=True):
        for a, b in zip(r.split(counts), f.split(counts), strict=True):
            expected += (a - b).abs().sum().item() / a.numel() / len(counts) / layers
    loss = feature_matching(real, fake, [share] * len(real))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(r.grad is None for r in real) and all(f.grad is not None for f in fake)


def test_times_follow_the_shift_of_their_kind_and_are_never_zero():
    frames = torch.tensor([1, 5]).repeat(20000)
    times = shifted_uniform_times(frames, 1.0, 12.0, 1000.0, torch.Generator().manual_seed(0))
    images, videos = times[::2], times[1::2]
    assert times.min() > 0 and times.max() <= 1000
    assert images.mean().item() == pytest.approx(500, abs=10)
    # the median of s u / (1 + (s - 1) u) is at u = 1/2
    assert videos.median().item() == pytest.approx(1000 * 12 * 0.5 / (1 + 11 * 0.5), abs=10)
