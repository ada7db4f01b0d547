"""On a GPU: the transformer with its kernels equals the plain path; in bfloat16 it is no further from float32."""

import pytest
import torch

from common.config import load_config
from common.kernels import gated, norm, window_qkv
from projects.benchmarking.timing import relative_distance
from projects.video_diffusion_sr.build import build_network

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("config", ["configs_3b/main.yaml", "configs_7b/main.yaml"])
@torch.no_grad()
def test_distances(config, monkeypatch, record_property):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    overrides = ["dit.model.num_layers=4"] + (["dit.model.mm_layers=2"] if "3b" in config else [])
    dit = build_network(load_config(config, overrides).dit.model, None, torch.device("cuda"), torch.float32)
    shapes, lengths = [(5, 18, 26), (1, 12, 20)], [58, 7]
    tokens = torch.randn(sum(t * h * w for t, h, w in shapes), 33, device="cuda")
    text = torch.randn(sum(lengths), 5120, device="cuda")

    def run() -> torch.Tensor:
        weight = next(dit.parameters())
        time = torch.tensor([1000.0, 500.0], device="cuda")
        return dit(tokens.to(weight), text.to(weight), shapes, [[n] for n in lengths], time).vid_sample

    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        dit.to(dtype)
        results["own", dtype] = run()
        with monkeypatch.context() as patch:
            for module in (norm, gated, window_qkv):
                patch.setattr(module, "use_triton", lambda *_: False)
            results["plain", dtype] = run()
    exact = results["plain", torch.float32]
    assert relative_distance(results["own", torch.float32], exact) < 1e-5
    ours, theirs = (relative_distance(results[name, torch.bfloat16], exact) for name in ("own", "plain"))
    print(f"{config}: distance to float32, own bf16 {ours:.5f}, plain bf16 {theirs:.5f}")
    record_property("distances", (ours, theirs))
    assert ours <= 1.02 * theirs
