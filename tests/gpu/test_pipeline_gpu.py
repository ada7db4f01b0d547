"""On a GPU: how far bfloat16 is from float32, stage by stage and whole, on the fast paths and on the plain ones."""

from pathlib import Path

import pytest
import torch
from projects.video_diffusion_sr.memory_plan import MemoryPlan

from common.config import load_config
from common.kernels import triton_support
from models.video_vae_v3.modules.fold import prepare_inference, release_inference
from projects.benchmark import Stages
from projects.benchmarking.networks import random_network
from projects.benchmarking.timing import relative_distance

pytestmark = pytest.mark.gpu

CONFIG = Path(__file__).resolve().parents[2] / "configs_3b" / "main.yaml"
SIZE = (1, 3, 9, 256, 448)


def results(stages: Stages, inputs: dict | None = None) -> dict[str, torch.Tensor]:
    """What each stage makes of the given inputs (its own, where there are none), and the whole of its own alone."""
    stages.encode()
    found = {"encode": stages.latents}
    stages.transformer()
    found["transformer"] = stages.restored
    stages.decode()
    found["decode"] = found["whole"] = stages.frames
    if inputs is not None:
        stages.latents = inputs["encode"].to(stages.dtype)
        stages.transformer()
        found["transformer"] = stages.restored
        stages.restored = inputs["transformer"].to(stages.dtype)
        stages.decode()
        found["decode"] = stages.frames
    return found


@torch.no_grad()
def test_distances(monkeypatch, record_property):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device, config = torch.device("cuda"), load_config(CONFIG)
    vae = random_network(config.vae.model, device, torch.float32)
    dit = random_network(config.dit.model, device, torch.float32)
    vae.set_causal_slicing(config.vae.slicing.split_size)
    clip = torch.rand(SIZE, device=device).mul(2).sub(1).bfloat16()

    def run(dtype: torch.dtype, fast: bool, inputs: dict | None = None) -> dict[str, torch.Tensor]:
        with monkeypatch.context() as patch:
            if not fast:
                patch.setattr(triton_support, "triton_available", lambda: False)
            stages = Stages(vae.to(dtype), dit.to(dtype), config, clip.to(dtype), dtype, MemoryPlan())
            return results(stages, inputs)

    exact = run(torch.float32, fast=False)
    prepare_inference(vae)
    same = run(torch.float32, fast=True)
    assert relative_distance(same["encode"], exact["encode"]) < 2e-5
    assert relative_distance(same["whole"], exact["whole"]) < 1e-3
    fast = run(torch.bfloat16, fast=True, inputs=exact)
    release_inference(vae)
    plain = run(torch.bfloat16, fast=False, inputs=exact)
    for stage, reference in exact.items():
        ours, theirs = relative_distance(fast[stage], reference), relative_distance(plain[stage], reference)
        print(f"{stage}: distance to float32, fast bf16 {ours:.5f}, plain bf16 {theirs:.5f}")
        record_property(stage, (ours, theirs))
        assert ours <= 1.1 * theirs, stage
