"""Encode, condition, sample, decode together against the recorded end-to-end numbers, and the laws of long clips."""

import itertools
import json
from concurrent.futures import wait

import pytest
import torch
from safetensors.torch import load_file

from common.diffusion import Guidance
from models.dit_v2.nadit import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from projects.video_diffusion_sr.infer import Prompts, Sampling, VideoDiffusionInfer
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS, in_windows
from tests.conftest import GOLDEN, seed_weights, seeded

META = json.loads((GOLDEN / "meta.json").read_text())
RECORDED = load_file(GOLDEN / "diffusion.safetensors")
SCALING_FACTOR = 0.9152


@pytest.fixture(scope="module")
def networks() -> tuple[VideoAutoencoderKLWrapper, NaDiT]:
    vae = seed_weights(VideoAutoencoderKLWrapper(**META["vae"]["config"])).eval()
    return vae, seed_weights(NaDiT(**META["dit/v2_small"]["config"])).eval()


def make_infer(networks, sampling: Sampling) -> VideoDiffusionInfer:
    prompts = Prompts(seeded("open/e2e/pos", (7, 48)), seeded("open/e2e/neg", (9, 48)))
    return VideoDiffusionInfer(*networks, prompts, sampling, SCALING_FACTOR)


FOUR_STEPS = Sampling(4, Guidance(6.5), condition_noise=0.1, channels_read_as_width=True)


@pytest.mark.parametrize(
    ("name", "sampling", "tolerance"), [("one_step", Sampling(), 1e-5), ("four_step_cfg", FOUR_STEPS, 5e-5)]
)
def test_recorded_end_to_end_numbers(networks, name, sampling, tolerance):
    infer = make_infer(networks, sampling)
    clip = seeded("open/e2e/x", (3, 9, 32, 48)).clamp(-1, 1)
    latents = infer.encode_slice(clip, infer.vae.new_memory(), noise=None)
    assert (latents - RECORDED["e2e/latent"]).abs().max() <= 1e-5
    noise, aug = (seeded(f"open/e2e/{kind}", tuple(latents.shape)) for kind in ("noise", "aug"))
    restored = infer.sample(infer.condition(latents, aug), noise)
    frames = infer.decode_slice(restored, infer.vae.new_memory())
    assert (frames - RECORDED[f"e2e/{name}/frames"]).abs().max() <= tolerance


def test_the_condition_carries_the_mask_and_is_noised_only_where_the_preset_says_so(networks):
    latents, noise = torch.randn(3, 4, 6, 16), torch.randn(3, 4, 6, 16)
    plain = make_infer(networks, Sampling()).condition(latents, noise)
    assert torch.equal(plain[..., :16], latents) and (plain[..., 16] == 1).all()
    assert make_infer(networks, Sampling()).noise_kinds == ("start",)  # none is drawn that nobody uses
    assert make_infer(networks, FOUR_STEPS).noise_kinds == ("start", "condition")
    noised = make_infer(networks, FOUR_STEPS).condition(latents, noise)
    assert not torch.allclose(noised[..., :16], latents) and (noised[..., 16] == 1).all()


@pytest.mark.parametrize("expected", [None, "these", (2, 4, 6)])
@pytest.mark.parametrize("sampling", [Sampling(), FOUR_STEPS])
def test_an_expected_layout_changes_nothing_and_is_not_kept(networks, sampling, expected):
    """Right or wrong: a wrong one would stay in the device's memory while the clip is decoded."""
    infer, built = make_infer(networks, sampling), []
    latents, noise = seeded("expected/latents", (3, 4, 6, 16)), seeded("expected/noise", (3, 4, 6, 16))
    condition = infer.condition(latents, noise)
    plain = infer.sample(condition, noise)
    layout = infer.dit.layout
    infer.dit.layout = lambda shapes, *rest: built.append(tuple(shapes[0])) or layout(shapes, *rest)
    try:
        infer.expect((3, 4, 6) if expected == "these" else expected)
        started = list(infer._expected.values())
        assert torch.equal(infer.sample(condition, noise), plain)
        wait(started)  # a wrong one may still be in the making, or was never begun
    finally:
        del infer.dit.layout
    texts = 1 if sampling.guidance.scale == 1.0 else 2
    assert built.count((3, 4, 6)) == texts, (
        "the expected layout is the one that is used; no other is made for this clip"
    )
    assert len(built) <= texts + (len(started) if isinstance(expected, tuple) else 0)
    assert not infer._expected


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_guidance_is_refused(scale):
    request = Request(res=(16, 16), random_weights=True, cfg_scale=scale)
    with pytest.raises(ValueError, match=r"guidance scale of .* is not possible"):
        resolve(PRESETS["seedvr2_tiny"], request, torch.device("cpu"))


def test_presets_are_the_released_settings():
    one_step = {name: p for name, p in PRESETS.items() if name.startswith("seedvr2")}
    assert all((p.steps, p.cfg_scale, p.condition_noise) == (1, 1.0, 0.0) for p in one_step.values())
    for name in ("seedvr_3b", "seedvr_7b"):
        preset = PRESETS[name]
        assert (preset.steps, preset.cfg_scale, preset.cfg_rescale, preset.condition_noise) == (50, 6.5, 0, 0.1)
        assert preset.channels_read_as_width, "the quirk of the released multi-step models is their default"


@pytest.mark.parametrize("window", [None, 3, 4, 7, 50])
@pytest.mark.parametrize("pieces", [[11], [3, 2, 2, 2, 2], [1] * 11])
def test_windows_neither_lose_nor_add_latent_frames(window, pieces):
    clip = torch.arange(11.0)[:, None, None, None].expand(-1, 2, 2, 1)
    spans = []

    def sample(latents, first):
        assert torch.equal(latents, clip[first : first + len(latents)]), "a window sees its own frames, whole"
        spans.append((first, first + len(latents)))
        return latents * 10

    restored = torch.cat(list(in_windows(iter(clip.split(pieces)), sample, window)))
    assert torch.equal(restored, clip * 10), "where windows agree, sharing them changes nothing"
    assert all(stop - start <= (window or 11) for start, stop in spans)
    assert all(b[0] == a[1] - SHARED_LATENTS for a, b in itertools.pairwise(spans))


def test_shared_latents_fade_from_the_earlier_window_to_the_later():
    clip = torch.zeros(6, 1, 1, 1)
    restored = torch.cat(list(in_windows(iter([clip]), lambda latents, first: latents + first, 4))).flatten()
    assert torch.allclose(restored, torch.tensor([0, 0, 2 / 3, 4 / 3, 2, 2]))
