"""The VAE against its recorded numbers, its checkpoint names, and its laws."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from common.config import load_config
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.blocks import Upsample
from tests.conftest import GOLDEN, ROOT, seed_weights, seeded

META = json.loads((GOLDEN / "meta.json").read_text())
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoderKLWrapper:
    return seed_weights(VideoAutoencoderKLWrapper(**META["vae"]["config"])).eval()


@pytest.fixture(scope="module")
def recorded() -> dict:
    return load_file(GOLDEN / "vae_small.safetensors")


def case_input(case: str) -> torch.Tensor:
    return seeded(f"open/vae/{case}/x", META[f"vae/{case}"]["input_shape"]).clamp(-1, 1)


@pytest.mark.parametrize("split_size", [None, 4, 8])
@pytest.mark.parametrize("case", ["image", "clip5", "clip9", "clip17"])
@torch.no_grad()
def test_recorded_numbers(vae, recorded, case, split_size):
    vae.set_causal_slicing(split_size)
    posterior = vae.encode(case_input(case)).posterior
    decoded = vae.decode(recorded[f"{case}/mean"]).sample
    assert (posterior.mean - recorded[f"{case}/mean"]).abs().max() <= TOLERANCE
    assert (posterior.logvar - recorded[f"{case}/logvar"]).abs().max() <= TOLERANCE
    expected = recorded[f"{case}/decoded"]
    assert decoded.ndim == 5
    assert (decoded - (expected if expected.ndim == 5 else expected[:, :, None])).abs().max() <= TOLERANCE


@pytest.mark.parametrize("encode_cuts", [[1, 16], [5, 4, 8], [9, 4, 4], [1, 4, 4, 4, 4]])
@torch.no_grad()
def test_any_allowed_cut_gives_the_same_numbers(vae, recorded, encode_cuts):
    x, memory = case_input("clip17"), vae.new_memory()
    moments = torch.cat([vae.encode_slice(part, memory) for part in x.split(encode_cuts, dim=2)], dim=2)
    assert (moments.chunk(2, 1)[0] - recorded["clip17/mean"]).abs().max() <= TOLERANCE
    z, memory = recorded["clip17/mean"], vae.new_memory()
    for_latents = [(n - 1) // 4 + 1 if i == 0 else n // 4 for i, n in enumerate(encode_cuts)]
    frames = torch.cat([vae.decode_slice(part, memory) for part in z.split(for_latents, dim=2)], dim=2)
    assert (frames - recorded["clip17/decoded"]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_two_clips_may_be_in_flight_at_once(vae):
    clips = [torch.randn(1, 3, 9, 16, 16) for _ in range(2)]
    vae.set_causal_slicing(None)
    alone = [vae.encode_parameters(clip) for clip in clips]
    memories = [vae.new_memory(), vae.new_memory()]
    first = [vae.encode_slice(clip[:, :, :5], memory) for clip, memory in zip(clips, memories, strict=True)]
    second = [vae.encode_slice(clip[:, :, 5:], memory) for clip, memory in zip(clips, memories, strict=True)]
    for whole, *parts in zip(alone, first, second, strict=True):
        assert (torch.cat(parts, dim=2) - whole).abs().max() <= TOLERANCE


@torch.no_grad()
def test_encoding_a_prefix_gives_a_prefix(vae):
    x = case_input("clip17")
    assert (vae.encode_parameters(x[:, :, :9]) - vae.encode_parameters(x)[:, :, :3]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("frames", "starts"), [(4, True), (3, False), (5, False)])
def test_slices_that_would_shift_time_are_refused(vae, frames, starts):
    memory = vae.new_memory()
    memory.starts_clip = starts
    with pytest.raises(ValueError, match="cannot be encoded"):
        vae.encode_slice(torch.zeros(1, 3, frames, 16, 16), memory)


def test_bad_split_sizes_are_refused(vae):
    with pytest.raises(ValueError, match="multiple of 4"):
        vae.set_causal_slicing(6)


@torch.no_grad()
def test_upscale_starts_as_nearest_neighbour():
    upsample = Upsample(4, temporal=True)
    x = torch.randn(1, 4, 3, 2, 2)
    upscaled = upsample.upscale_conv(x).unflatten(1, (8, 4))
    assert all(torch.equal(upscaled[:, i], x) for i in range(8))


def test_names_and_shapes_of_the_released_checkpoint():
    config = load_config(ROOT / "models" / "video_vae_v3" / "s8_c16_t4_inflation_sd3.yaml")
    keys = {k: v for k, v in OmegaConf.to_container(config, resolve=True).items() if not k.startswith("__")}
    with torch.device("meta"):
        model = VideoAutoencoderKLWrapper(**keys)
    manifest = json.loads((ROOT / "tests" / "manifests" / "video_vae.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == manifest
