"""The predicted time of a training step is that of the measured steps, and its constant is what is counted."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from common.config import create_object, load_config
from models.dit_v2.nadit import NaDiT
from models.nadit.discriminator import Discriminator
from models.nadit.recompute import Recompute
from projects.training_cost import main
from projects.video_diffusion_sr.communication import TEXT_TOKENS
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.training.cost import BLOCK_TRAFFIC, Gpu, StepTime, stage_costs, step_time

# The 3B on two GPUs, everything recomputed (docs/training.md). The rows on H100s are of code whose norms were float32
# under autocast and whose windows were sliced: counted as below, it moved 450 bytes instead of 325. The later rows are
# of H200s, whose faster memory does not show.
FLOAT32_NORMS = 450
MEASURED = [  # stage, frames of 720x1280, GPUs to a clip, traffic, seconds, bound by the host
    ("diffusion", 1, 1, FLOAT32_NORMS, 1.14, True),
    ("diffusion", 21, 2, FLOAT32_NORMS, 1.05, True),
    ("diffusion", 101, 2, FLOAT32_NORMS, 4.03, False),
    ("adversarial", 1, 2, FLOAT32_NORMS, 3.06, True),
    ("adversarial", 21, 2, FLOAT32_NORMS, 5.92, False),
    ("diffusion", 21, 2, BLOCK_TRAFFIC, 0.99, True),
    ("diffusion", 101, 2, BLOCK_TRAFFIC, 3.47, False),
    ("distill", 101, 2, BLOCK_TRAFFIC, 4.55, False),
    ("adversarial", 21, 2, BLOCK_TRAFFIC, 5.14, False),
]
# Two rows are not among them. ("diffusion", 21, 1, FLOAT32_NORMS, 2.37): twice the work of the second row in 2.26 times
# its time, which no cost that stays the same or grows with the clip explains; it is to be measured again.
# ("distill", 21, 2, BLOCK_TRAFFIC, 1.14): bound by a host, and its host was faster than the one of the rule.

NO_WORK = {"view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "squeeze", "unsqueeze", "expand"}
NO_WORK |= {"slice", "select", "split", "split_with_sizes", "unbind", "detach", "alias", "as_strided", "unfold"}
NO_WORK |= {"empty", "empty_like", "new_empty"}


def predicted(stage: str, frames: int, sp_size: int, traffic: float) -> StepTime:
    recipe = create_object(load_config("configs_3b/main.yaml"))
    with torch.device("meta"):
        dit, _ = recipe.build_dit()
        discriminator = Discriminator(dit)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (dit, discriminator)]
    cost = stage_costs(*sizes, len(discriminator.heads), recipe.recompute)[stage]
    latent = ((frames + 3) // 4, 90, 160)
    tokens = latent[0] * 45 * 80 + TEXT_TOKENS
    flops = transformer_flops(dit.config, [latent], [TEXT_TOKENS])
    return step_time(cost, dit.config, flops / sp_size, tokens / sp_size, Gpu(), traffic)


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_seconds_are_within_a_tenth_of_those_measured(row):
    *step, seconds, host_bound = row
    time = predicted(*step)
    assert time.seconds == pytest.approx(seconds, rel=0.1)
    assert time.host_bound == host_bound


def test_a_time_that_the_host_bounds_is_marked_and_explained(capsys):
    main(["--gpus", "1", "--clip", "1x720x1280"])
    single = capsys.readouterr().out
    main(["--gpus", "1", "--clip", "21x720x1280"])
    clip = capsys.readouterr().out
    assert "* |" in single and "Bound by the host" in single
    assert "* |" not in clip and "Bound by the host" not in clip


class Traffic(TorchDispatchMode):
    """Bytes of all tensors that operators read and write, those of repeated dimensions once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in NO_WORK:
            self.add(*tree_leaves((args, kwargs, result)))
        return result

    def add(self, *tensors) -> None:
        for x in tensors:
            if isinstance(x, torch.Tensor):
                counts = [n for n, stride in zip(x.shape, x.stride(), strict=True) if stride]
                self.bytes += torch.Size(counts).numel() * x.element_size()


class FusedNorm(torch.autograd.Function):
    """RMSNorm as CUDA has it: one operator that reads x and writes y; on a CPU it is several."""

    @staticmethod
    def forward(ctx, x, weight, watch):
        ctx.save_for_backward(x, weight)
        ctx.watch = watch
        with _disable_current_modes():
            y = F.rms_norm(x, x.shape[-1:])
        watch.add(x, y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        with _disable_current_modes():
            of_x, of_weight = torch.ones_like(x), None if weight is None else torch.ones_like(weight)
        ctx.watch.add(gradient, x, of_x, *(() if weight is None else (gradient, x)))
        return of_x, of_weight, None


def test_a_block_moves_the_bytes_that_are_predicted(monkeypatch):
    """Two blocks of the 3B's kind, regular and shifted, at a quarter of its width; batch of one clip, checkpointed."""
    width, layers, size = 640, 2, (6, 48, 80)
    conf = load_config("configs_3b/main.yaml").dit.model
    conf.num_layers, conf.mm_layers, conf.heads, conf.txt_in_dim = layers, 1, 5, 64
    conf.vid_dim = conf.txt_dim = width
    conf.emb_dim = 6 * width
    for name in ("block_type", "window", "window_method"):
        conf[name] = conf[name][:layers]
    model: NaDiT = create_object(conf)
    model.set_gradient_checkpointing(Recompute(1.0, "nothing"))
    layout = model.layout([size], [TEXT_TOKENS])
    inputs = torch.randn(6 * 48 * 80, 33), torch.randn(TEXT_TOKENS, 64), [size], [[TEXT_TOKENS]], torch.tensor(500.0)
    with Traffic() as watch, torch.autocast("cpu", torch.bfloat16):
        for module in ("common.kernels.norm", "common.kernels.window_qkv", "models.nadit.block"):
            monkeypatch.setattr(f"{module}.rms_norm", lambda x, weight=None, eps=0: FusedNorm.apply(x, weight, watch))
        model(*inputs, layout=layout).vid_sample.sum().backward()
    tokens = 6 * 24 * 40 + TEXT_TOKENS
    assert watch.bytes / (4 * layers * tokens * width) == pytest.approx(BLOCK_TRAFFIC, rel=0.1)
