"""On a GPU: the fast path in float32 equals the plain one; in bfloat16 it is no further from float32 than plain is."""

import os

import pytest
import torch

from common.config import load_config
from models.video_vae_v3.modules.fold import prepare_inference, release_inference
from projects.benchmarking.timing import relative_distance
from projects.video_diffusion_sr.build import build_network

pytestmark = pytest.mark.gpu
SIZE = (1, 3, 13, 144, 208)


@pytest.fixture(scope="module")
def vae():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    config = load_config("configs_3b/main.yaml")
    return build_network(config.vae.model, None, torch.device("cuda"), torch.float32)


def both_ways(vae, x, z):
    return vae.encode_moments(x.to(next(vae.parameters()))), vae.decode_latents(z.to(next(vae.parameters())))


@torch.no_grad()
def test_distances(vae, record_property):
    x, z = torch.randn(SIZE, device="cuda").clamp(-1, 1), torch.randn(1, 16, 4, 18, 26, device="cuda")
    release_inference(vae)
    vae.float().set_causal_slicing(4)
    exact = both_ways(vae, x, z)
    prepare_inference(vae)
    for result, expected in zip(both_ways(vae, x, z), exact, strict=True):
        assert relative_distance(result, expected) < 2e-5
    image = both_ways(vae, x[:, :, :1], z[:, :, :1])
    assert relative_distance(image[0], exact[0][:, :, :1]) < 2e-5
    assert relative_distance(image[1], exact[1][:, :, :1]) < 2e-5
    ways = [("all", False, True), ("full", False, True), ("all", False, False), ("all", True, False)]
    for rolls, lean, fours in (*ways, ("full", False, False), ("off", False, False)):
        vae.rolls, vae.lean, vae.fours = rolls, lean, fours
        for result, expected in zip(both_ways(vae, x, z), exact, strict=True):
            assert relative_distance(result, expected) < 2e-5
    vae.rolls = vae.fours = None
    fast = both_ways(vae.bfloat16(), x, z)
    cuts = [(0.002, None, None), (0.002, "full", None), (None, "full", False), (None, "off", None), (None, "all", None)]
    for limit, rolls, fours in (*cuts, (None, "all", False)):
        vae.set_memory_limit(limit)
        vae.rolls, vae.fours = rolls, fours
        again = both_ways(vae, x, z)
        assert all(relative_distance(a, b) < 2e-2 for a, b in zip(again, fast, strict=True))
    vae.set_memory_limit(None)
    vae.rolls = vae.fours = None
    release_inference(vae)
    plain = both_ways(vae, x, z)
    for stage, a, b, reference in zip(("encode", "decode"), fast, plain, exact, strict=True):
        ours, theirs = relative_distance(a, reference), relative_distance(b, reference)
        print(f"{stage}: distance to float32, fast bf16 {ours:.5f}, plain bf16 {theirs:.5f}")
        record_property(stage, (ours, theirs))
        assert ours <= 1.02 * theirs
    assert os.environ.get("SEEDVR_KERNELS") != "plain"
