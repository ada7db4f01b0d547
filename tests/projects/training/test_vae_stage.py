"""The VAE's stage: its losses against plain formulas, one step that trains both players, the linear start."""

import math

import pytest
import torch

from models.vae_discriminator import VideoPatchDiscriminator
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from projects.video_diffusion_sr.training.latent_statistics import LatentStatistics, fold, measure
from projects.video_diffusion_sr.training.tiny.pca_start import blocks, components, start_from_components
from projects.video_diffusion_sr.training.vae import (
    ClipBatch,
    VaeStage,
    build_vae_stage,
    discriminator_loss,
    generator_loss,
    kl_divergence,
    shares_of_pixels,
)

GAN = {"start": 1, "channels": [8, 16], "kind": "rpgan"}


def small_vae(**changes) -> VideoAutoencoderKLWrapper:
    keys = {"block_out_channels": (8, 8), "temporal_scale_num": 1, "latent_channels": 4, "layers_per_block": 1}
    return VideoAutoencoderKLWrapper(**keys | {"norm_num_groups": 4} | changes)


def stage_with(weights: dict, gan: dict = GAN) -> VaeStage:
    torch.manual_seed(0)
    return build_vae_stage(small_vae(), {"weights": weights, "gan": gan}, 0.9)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def batch(step: int = 0) -> ClipBatch:
    generator = torch.Generator().manual_seed(1)
    sizes = ((2, 3, 3, 8, 8), (1, 3, 1, 8, 16))
    clips = tuple(torch.randint(0, 256, s, generator=generator, dtype=torch.uint8) for s in sizes)
    return ClipBatch(("a", "b", "c"), step, clips)


def test_losses_of_images_and_clips_are_plain_means_over_pixels_and_latents() -> None:
    stage = stage_with({"l1": 1.0, "kl": 0.5, "gan": 0.0, "perceptual": 0.0})
    prepared = stage.prepare(batch(), draws())
    losses = stage.losses("vae", prepared, draws())
    generator, errors, kls, shares = draws(), [], [], []
    for clip in prepared.clips:
        posterior = stage.modules["vae"].encode(clip).posterior
        noise = torch.randn(posterior.mean.shape, generator=generator)
        made = stage.modules["vae"].decode(posterior.mean + (posterior.logvar / 2).exp() * noise).sample
        errors.append((made - clip).abs().sum())
        variance = posterior.logvar.exp()
        kls.append((0.5 * (posterior.mean**2 + variance - 1 - variance.log())).mean())
        shares.append(clip.numel())
    l1 = sum(errors) / sum(shares)
    kl = sum(k * s for k, s in zip(kls, shares, strict=True)) / sum(shares)
    torch.testing.assert_close(losses["l1"], l1)
    torch.testing.assert_close(losses["kl"], kl)
    torch.testing.assert_close(losses["total"], l1 + 0.5 * kl)


def test_kl_is_that_of_torch_distributions() -> None:
    moments = torch.randn(2, 8, 1, 3, 3)
    posterior = DiagonalGaussian(moments)
    own = torch.distributions.Normal(posterior.mean, (posterior.logvar / 2).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(posterior), expected)


@pytest.mark.parametrize("kind", ["hinge", "rpgan"])
def test_adversarial_losses(kind: str) -> None:
    real, fake = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])
    if kind == "hinge":
        wanted = (0 + 1.5) / 2 / 2 + (1.5 + 0) / 2 / 2, -(0.5 - 3.0) / 2
    else:

        def softplus(x: float) -> float:
            return math.log1p(math.exp(x))

        wanted = (softplus(-1.5) + softplus(-2.5)) / 2, (softplus(1.5) + softplus(2.5)) / 2
    assert float(discriminator_loss(kind, real, fake)) == pytest.approx(wanted[0])
    assert float(generator_loss(kind, fake, real)) == pytest.approx(wanted[1])


def test_the_opponent_joins_at_its_step_and_each_player_moves_its_own_network() -> None:
    stage = stage_with({"l1": 1.0, "kl": 0.0, "gan": 1.0, "perceptual": 0.0})
    assert [p.plays(0) for p in stage.players] == [True, False]
    before = stage.prepare(batch(0), draws())
    assert "gan" not in stage.losses("vae", before, draws())
    at_start = stage.prepare(batch(1), draws())
    losses = stage.losses("vae", at_start, draws())
    losses["total"].backward()
    assert losses["gan"] > 0 and all(p.grad is not None for p in stage.modules["vae"].parameters())
    opponent = stage.modules["discriminator"]
    opponent.zero_grad()
    first = stage.losses("discriminator", at_start, draws())["total"]
    optimizer = torch.optim.SGD(opponent.parameters(), lr=0.05)
    first.backward()
    optimizer.step()
    assert stage.losses("discriminator", at_start, draws())["total"] < first


def test_groups_weigh_as_their_pixels() -> None:
    shares = shares_of_pixels([torch.zeros(2, 3, 3, 8, 8), torch.zeros(1, 3, 1, 8, 8)])
    torch.testing.assert_close(shares, torch.tensor([6 / 7, 1 / 7]))


def test_a_patch_sees_neighbouring_frames_and_a_logit_only_its_own_clip() -> None:
    torch.manual_seed(0)
    discriminator = VideoPatchDiscriminator((8, 16))
    clips = torch.randn(2, 3, 5, 16, 16)
    logits = discriminator(clips)
    torch.testing.assert_close(discriminator(clips[:1]), logits[:1])
    changed = clips.clone()
    changed[0, :, 3] += 1
    assert (discriminator(changed)[0, :, 2] != logits[0, :, 2]).any()


def test_a_start_from_components_reconstructs_like_principal_components() -> None:
    torch.manual_seed(0)
    keys = {"block_out_channels": (16, 32, 64), "latent_channels": 16, "norm_num_groups": 1}
    vae = small_vae(**keys).eval()
    rough = torch.randn(4, 3, 3, 6, 6)
    clips = torch.nn.functional.interpolate(rough, (5, 32, 32), mode="trilinear").clamp(-1, 1)
    start_from_components(vae, clips)
    mean, basis, _ = components(clips, 32, 16)
    x = blocks(clips)
    linear = (x - mean) @ basis[:16].T @ basis[:16] + mean
    with torch.no_grad():
        made = blocks(vae.decode(vae.encode(clips).latent).sample)
    error, best = ((y - x).square().mean().sqrt() for y in (made, linear))
    assert best <= error < best + 0.1 * x.std()


def test_a_start_from_components_needs_one_group() -> None:
    with pytest.raises(ValueError, match="one norm group"):
        start_from_components(small_vae(), torch.zeros(1, 3, 3, 8, 8))


@torch.no_grad()
def test_a_normalised_vae_has_channels_of_spread_one_and_the_same_pixels():
    """Latents are those of before, each channel divided by its spread; decoded they are the same clip."""
    torch.manual_seed(3)
    vae = small_vae().eval()
    vae.set_causal_slicing(None)
    vae.encoder.conv_out.weight[:4] *= torch.tensor([0.1, 1.0, 5.0, 30.0])[:, None, None, None, None]
    clips = [torch.rand(2, 3, 5, 16, 24) * 2 - 1, torch.rand(1, 3, 1, 32, 32) * 2 - 1]
    before = [DiagonalGaussian(vae.encode_parameters(clip)) for clip in clips]
    latents = torch.cat([p.mean.movedim(1, 0).flatten(1) for p in before], 1)
    variance = torch.cat([p.logvar.exp().movedim(1, 0).flatten(1) for p in before], 1).mean(1)
    pixels = [vae.decode_latents(p.mean) for p in before]

    statistics = measure(vae, clips)
    torch.testing.assert_close(statistics.mean.float(), latents.mean(1), rtol=1e-4, atol=1e-5)
    spread = (latents.var(1, correction=0) + variance).sqrt()
    torch.testing.assert_close(statistics.std.float(), spread, rtol=1e-4, atol=1e-5)
    folded = fold(vae, statistics)
    again = measure(vae, clips)
    torch.testing.assert_close(again.std, torch.ones(4, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(again.mean, folded.mean, rtol=1e-3, atol=1e-3)
    for clip, old, picture in zip(clips, before, pixels, strict=True):
        new = DiagonalGaussian(vae.encode_parameters(clip))
        scale = spread[None, :, None, None, None]
        torch.testing.assert_close(new.mean * scale, old.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(new.logvar + 2 * scale.log(), old.logvar, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(vae.decode_latents(new.mean), picture, rtol=1e-3, atol=1e-4)
    one = LatentStatistics(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert one.scaling_factor == pytest.approx(5**-0.5) and one.header(1.0)["scaling_factor"] == "1.0000"
    with pytest.raises(ValueError, match="there are none"):
        measure(vae, [])


def test_a_missing_perceptual_loss_is_said(caplog):
    stage_with({"perceptual": 1.0})
    assert "no perceptual loss" in caplog.text
    caplog.clear()
    stage_with({"perceptual": 0.0})
    assert caplog.text == ""


def test_the_vae_is_validated_on_its_reconstructions():
    stage = stage_with({"gan": 0.0})
    pairs = stage.validate(batch(), draws())
    assert [truth.shape for _, truth in pairs] == [clip.shape for group in batch().clips for clip in group]
    assert all(output.shape == truth.shape and truth.abs().max() <= 1 for output, truth in pairs)
