"""The VAE's fast path and its folded weights against the plain path: the same numbers, whatever the cut."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.kernels.minimal_filter import SHRINK
from models.video_vae_v3.modules import fast_layers, fold, fours
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.blocks import Upsample
from models.video_vae_v3.modules.fast_layers import FastLayers
from models.video_vae_v3.modules.fold import fold_upsample, prepare_inference, release_inference
from models.video_vae_v3.modules.fours import filter_four
from models.video_vae_v3.modules.rolling import has_turns
from models.video_vae_v3.modules.strips import in_strips
from models.video_vae_v3.modules.temporal_memory import TemporalMemory
from tests.conftest import seed_weights

TINY = 1e-9  # GiB: one frame at once everywhere
PLAIN, ONE_BY_ONE, LEAN, FOURS = (False, False), (False, False), (True, False), (False, True)  # lean, fours
CUTS = [
    (None, "off", *PLAIN), (TINY, "off", *PLAIN), (None, "all", *ONE_BY_ONE), (None, "full", *ONE_BY_ONE),
    (TINY, "full", *ONE_BY_ONE), (None, "all", *LEAN), (None, "full", *LEAN),
    (None, "all", *FOURS), (None, "full", *FOURS), (TINY, "all", *FOURS),
]  # fmt: skip
SMALL = {"block_out_channels": (16, 24, 32), "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4}


def small_vae(temporal_scale_num: int, **changes) -> VideoAutoencoderKLWrapper:
    vae = VideoAutoencoderKLWrapper(**(SMALL | {"temporal_scale_num": temporal_scale_num} | changes))
    return seed_weights(vae).double().eval()


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["space", "time-once", "time-twice"])
def vae(request) -> VideoAutoencoderKLWrapper:
    return small_vae(request.param)


@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_fast_equals_plain_for_every_cut(vae, batch):
    factor = vae.temporal_factor
    clip, latents = torch.randn(batch, 3, 9, 8, 12).double(), torch.randn(batch, 4, 1 + 8 // factor, 2, 3).double()
    release_inference(vae)
    vae.set_causal_slicing(None)
    moments, frames = vae.encode_moments(clip), vae.decode_latents(latents)
    prepare_inference(vae)
    for split_size in (None, 4, 8):
        vae.set_causal_slicing(split_size)
        for limit, rolls, lean, by_fours in CUTS:
            vae.set_memory_limit(limit)
            vae.rolls, vae.lean, vae.fours = rolls, lean, by_fours
            assert (vae.encode_moments(clip) - moments).abs().max() < 1e-12
            assert (vae.decode_latents(latents) - frames).abs().max() < 1e-12
    vae.set_memory_limit(None)
    vae.rolls, vae.lean, vae.fours = None, False, None


@torch.no_grad()
def test_frames_roll_through_some_levels_only(monkeypatch):
    """As in the release: the widest weights are not kept in three orders."""
    monkeypatch.setattr(fold, "MOST_ROLLED", 24 * 16)
    vae = small_vae(1)
    clip, latents = torch.randn(1, 3, 13, 8, 12).double(), torch.randn(1, 4, 7, 2, 3).double()
    vae.set_causal_slicing(4)
    expected = vae.encode_moments(clip), vae.decode_latents(latents)
    prepare_inference(vae)
    vae.rolls = "all"
    assert has_turns(vae.decoder.conv_out) and not has_turns(vae.decoder.up_blocks[0].resnets[0].conv1)
    for result, plain in zip((vae.encode_moments(clip), vae.decode_latents(latents)), expected, strict=True):
        assert (result - plain).abs().max() < 1e-12


@pytest.mark.parametrize("split_size", [2, 4, 6, 10])
@torch.no_grad()
def test_fours_in_bands_and_with_frames_left_over(split_size, monkeypatch):
    """Bands of few rows, and slices whose frames are not four: those go as they would have gone anyway."""
    vae = small_vae(1)
    clip, latents = torch.randn(1, 3, 21, 20, 12).double(), torch.randn(1, 4, 11, 5, 3).double()
    vae.set_causal_slicing(split_size)
    expected = vae.encode_moments(clip), vae.decode_latents(latents)
    prepare_inference(vae)
    vae.rolls, vae.fours = "all", True
    taken = []

    def filtered(layer, past, x, *rest, **options):
        taken.append((x.shape[1], options.get("up", 1)))
        return filter_four(layer, past, x, *rest, **options)

    monkeypatch.setattr(fast_layers, "filter_four", filtered)
    for band_bytes in (1, 100_000):
        monkeypatch.setattr(fours, "BAND_BYTES", band_bytes)
        for result, plain in zip((vae.encode_moments(clip), vae.decode_latents(latents)), expected, strict=True):
            assert (result - plain).abs().max() < 1e-12
    assert set(taken) == (set() if split_size == 2 else {(4, 1), (4, 2)})


@torch.no_grad()
def test_weights_of_fours_stay_in_float16_where_the_network_becomes_bfloat16():
    vae = small_vae(1).float()
    prepare_inference(vae)
    conv = vae.decoder.up_blocks[-1].resnets[0].conv2
    exact = conv.derived_filter.six.clone()
    vae.bfloat16()
    assert conv.weight.dtype == torch.bfloat16 and conv.derived_filter.six.dtype == torch.float16
    assert (conv.derived_filter.six.float() - exact).norm() < 5e-4 * exact.norm()
    assert vae.bfloat16().decoder.up_blocks[-1].resnets[0].conv2.derived_filter.six.dtype == torch.float16
    assert not [name for name in vae.state_dict() if "derived" in name]


@torch.no_grad()
def test_two_clips_roll_at_once():
    """Carried frames belong to the clip: slices of two clips in turns give what each gives alone."""
    vae = small_vae(1)
    prepare_inference(vae)
    vae.set_causal_slicing(2)
    vae.rolls = "all"
    clips = torch.randn(2, 1, 3, 7, 8, 12).double()
    expected = [vae.encode_moments(clip) for clip in clips]
    memories, parts = [vae.new_memory() for _ in clips], [[], []]
    for start, stop in ((0, 1), (1, 3), (3, 5), (5, 7)):
        for clip, memory, part in zip(clips, memories, parts, strict=True):
            part.append(vae.encode_slice(clip[:, :, start:stop], memory))
    for part, whole in zip(parts, expected, strict=True):
        assert torch.equal(torch.cat(part, 2), whole)


@torch.no_grad()
def test_images_and_single_frames(vae):
    image, latent = torch.randn(1, 3, 1, 20, 12).double(), torch.randn(1, 4, 1, 5, 3).double()
    release_inference(vae)
    expected = vae.encode_moments(image), vae.decode_latents(latent)
    prepare_inference(vae)
    assert (vae.encode_moments(image) - expected[0]).abs().max() < 1e-12
    assert (vae.decode_latents(latent) - expected[1]).abs().max() < 1e-12


def test_a_soft_bound_is_only_for_what_has_no_room(monkeypatch):
    vae = small_vae(1)
    vae.set_memory_limit(1.0, always=False)
    assert vae._bound(torch.zeros(1, 4, 1, 8, 8)) == 2**30  # a CPU says nothing about room: the bound holds
    gib = 2**30
    for free, expected in ((1 * gib, 2**30), (200 * gib, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free, 300 * gib))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
        for shape in ((1, 4, 2, 180, 320), (1, 3, 4, 720, 1280)):
            on_a_gpu = SimpleNamespace(is_cuda=True, shape=shape, device="cuda", element_size=lambda: 2)
            assert vae._bound(on_a_gpu) == expected


def test_preparing_leaves_names_and_values_and_training_alone():
    vae = small_vae(1)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    prepare_inference(vae)
    after = vae.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    reconstruction, _ = vae(torch.randn(1, 3, 3, 8, 8).double())
    reconstruction.sum().backward()
    assert vae.decoder.up_blocks[0].upsamplers[0].upscale_conv.weight.grad.abs().sum() > 0
    release_inference(vae)
    assert not [name for name, _ in vae.named_buffers() if "derived" in name]


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("cuts", [[1], [1, 1], [1, 2, 1], [3], [1, 3]])
@torch.no_grad()
def test_folded_upsampler(temporal, cuts):
    up = seed_weights(Upsample(6, temporal)).double()
    up.upscale_conv.bias.mul_(10)  # large: an error of the table at the border must show
    fold_upsample(up)
    x = torch.randn(1, 6, sum(cuts), 3, 5).double()
    expected = up(x, TemporalMemory(keep=False))
    memory, parts = TemporalMemory(), []
    for part in x.split([1, *cuts][1:] if cuts[0] == 1 else [1, cuts[0] - 1], dim=2):
        layers = FastLayers(memory)
        frames = part.permute(0, 2, 3, 4, 1)
        past = layers.past(3 - up.time_factor)
        buffer = layers.buffer(frames, past, 6)
        buffer[:, past:] = frames
        parts += [piece().x for piece in layers.upsample(up, buffer, past)]
        memory.advance()
    assert (torch.cat(parts, 1).permute(0, 4, 1, 2, 3) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [7, 8, 13])
@pytest.mark.parametrize("most", [10**9, 700, 300, 1])
def test_strips_are_exact(rows, most):
    x = torch.randn(1, 3, rows, 5, 4)
    weight = torch.randn(6, 4, 3, 3, 3)

    def same(part):
        return F.conv3d(part.movedim(-1, 1), weight, padding=(0, 1, 1)).movedim(1, -1)

    out = in_strips(same, x, (1, 1, rows, 5, 6), most=most)
    assert (out - same(x)).abs().max() < 1e-4

    def halved(part):
        return F.conv3d(part.movedim(-1, 1), weight, stride=(1, 2, 2)).movedim(1, -1)

    out = in_strips(halved, x[:, :, : rows // 2 * 2 - 1], (1, 1, rows // 2 - 1, 2, 6), down=2, halo=(0, 1), most=most)
    assert (out - halved(x[:, :, : rows // 2 * 2 - 1])).abs().max() < 1e-4
    doubling = torch.randn(4, 6, 3, 4, 4)

    def doubled(part):
        return F.conv_transpose3d(part.movedim(-1, 1), doubling, stride=(1, 2, 2), padding=(2, 1, 1)).movedim(1, -1)

    out = in_strips(doubled, x, (1, 1, 2 * rows, 10, 6), up=2, most=most)
    assert (out - doubled(x)).abs().max() < 1e-4


@torch.no_grad()
def test_activations_as_large_as_the_release_has_pass_through_float16():
    """An upsampler reads what no norm has bounded: 19,088 was seen in the released VAE, float16 ends at 65,504."""
    taps, layer = torch.randn(3, 12, 16, 3, 3) / 432**0.5, torch.nn.Module()
    layer.derived_filter = fours.FilterWeights(taps).bfloat16()
    x = torch.randn(1, 6, 6, 8, 16).mul(6000).clamp(-60000, 60000).bfloat16()
    past = fours.FilteredPast(x[:, 0])
    past.frames.copy_(x[:, :2].mul(SHRINK))
    norm, out = (torch.ones(4, 16), torch.zeros(4, 16)), torch.empty(1, 4, 6, 8, 12).bfloat16()
    filter_four(layer, past, x[:, 2:], norm, False, out, torch.zeros(12).bfloat16())
    expected = F.conv3d(x.double().movedim(-1, 1), taps.double().movedim(0, 2), padding=(0, 1, 1)).movedim(1, -1)
    assert out.isfinite().all() and (out.double() - expected).norm() < 5e-3 * expected.norm()
