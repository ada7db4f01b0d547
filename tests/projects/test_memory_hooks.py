"""The transformer under diffusers' hooks: blocks that travel change nothing, 8-bit storage little."""

import copy

import pytest
import torch

from common.config import load_config
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.schedule import direct_schedule
from projects.video_diffusion_sr.build import build_network
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.stages import Stages, install, offload_blocks, store_in_8_bits

SHAPE, CPU = (3, 6, 8), torch.device("cpu")


@pytest.fixture(scope="module", params=["configs_3b/main.yaml", "configs_7b/main.yaml"])
def dit(request):
    small = ["vid_dim=48", "heads=3", "head_dim=32", "num_layers=4", "txt_in_dim=40"]
    small += ["mm_layers=2", "rope_dim=32"] if "3b" in request.param else []
    config = load_config(request.param, [f"dit.model.{entry}" for entry in small])
    return build_network(config.dit.model, None, CPU, torch.float32)


@torch.no_grad()
def run(dit) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3 * 6 * 8, 33, generator=generator)
    text = torch.randn(5, 40, generator=generator)
    return dit(tokens, text, [SHAPE], [[5]], 1000.0).vid_sample


def test_blocks_that_travel(dit):
    expected, moving = run(dit), copy.deepcopy(dit)
    offload_blocks(moving, CPU)
    assert torch.equal(run(moving), expected)


def test_eight_bit_storage(dit):
    expected, stored = run(dit), copy.deepcopy(dit)
    store_in_8_bits(stored)
    dtypes = {p.dtype for name, p in stored.named_parameters() if "blocks.1." in name and p.ndim == 2}
    assert dtypes == {torch.float8_e4m3fn}
    assert all(p.dtype == torch.float32 for p in stored.blocks[-1].parameters())
    error = (run(stored) - expected).norm() / expected.norm()
    assert 0 < error < 0.1


def test_a_plan_is_followed_whole(dit):
    vae = VideoAutoencoderKLWrapper(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
                                    temporal_scale_num=1)  # fmt: skip
    network, schedule = copy.deepcopy(dit), direct_schedule(2, 2)
    Stages(vae, network, CPU).apply_plan(MemoryPlan(schedule, token_chunk=7))
    assert network.blocks[0].mlp.video.token_chunk == 7
    assert torch.allclose(run(network), run(dit), atol=1e-5)
    assert set(install(MemoryPlan(schedule), vae, network, CPU).models) == {"vae", "dit"}
    assert set(install(MemoryPlan(schedule, offload="blocks"), vae, network, CPU).models) == {"vae"}
