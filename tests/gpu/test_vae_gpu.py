"""On a GPU: in float32 the inference path equals the plain one; in bfloat16 it is no further from float32."""

import os

import pytest
import torch

from common.config import load_config
from models.video_vae_v3.modules.attn_video_vae import split_after_first
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import F23, F43, LevelSchedule, Schedule
from projects.benchmarking.timing import relative_distance
from projects.video_diffusion_sr.build import build_network
from tests.plain_vae import release_inference

pytestmark = pytest.mark.gpu
SIZE = (1, 3, 17, 144, 208)
DIRECTLY = LevelSchedule()


def filtered(winograd: int, slice_frames: int, levels: int) -> Schedule:
    """The first `levels` levels by Winograd, the others directly."""
    return Schedule(slice_frames, (LevelSchedule(winograd, winograd),) * levels + (DIRECTLY,) * (4 - levels))


SCHEDULES = {
    "direct": Schedule(4, (DIRECTLY,) * 4),
    "F(4, 3)": filtered(F43, 8, 3),
    "F(4, 3) at full size": filtered(F43, 4, 1),
    "F(4, 3), frames left over": filtered(F43, 12, 2),
    "F(2, 3)": filtered(F23, 4, 3),
    "few frames": Schedule(4, tuple(map(LevelSchedule, (1, 2, 2, 1)))),
    "the whole clip": Schedule(None, filtered(F43, 8, 3).levels),
}


@pytest.fixture(scope="module")
def vae():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    config = load_config("configs_3b/main.yaml")
    return build_network(config.vae.model, None, torch.device("cuda"), torch.float32)


def both_ways(vae, x, z, schedule: Schedule = SCHEDULES["direct"]) -> list[torch.Tensor]:
    """Posterior parameters of x, and the frames of z."""
    found, factor = [], vae.temporal_factor
    for run, clip, step in ((vae.encode_slice, x, 1), (vae.decode_slice, z, factor)):
        size = schedule.slice_frames and schedule.slice_frames // step
        memory = vae.new_memory(schedule)
        parts = split_after_first(clip.to(next(vae.parameters())), size)
        found.append(torch.cat([run(part, memory) for part in parts], 2))
    return found


@torch.no_grad()
def test_distances(vae, record_property):
    x, z = torch.randn(SIZE, device="cuda").clamp(-1, 1), torch.randn(1, 16, 5, 18, 26, device="cuda")
    release_inference(vae)
    exact = both_ways(vae.float(), x, z)
    prepare_inference(vae, (F43, F23))
    for name, schedule in SCHEDULES.items():
        for result, expected in zip(both_ways(vae, x, z, schedule), exact, strict=True):
            assert relative_distance(result, expected) < 2e-5, name
    image = both_ways(vae, x[:, :, :1], z[:, :, :1], Schedule(4, (DIRECTLY,) * 4, single_frame=True))
    for result, expected in zip(image, exact, strict=True):
        assert relative_distance(result, expected[:, :, :1]) < 2e-5
    fast = {name: both_ways(vae.bfloat16(), x, z, schedule) for name, schedule in SCHEDULES.items()}
    release_inference(vae)
    plain = both_ways(vae, x, z)
    for name, results in fast.items():
        for stage, a, b, reference in zip(("encode", "decode"), results, plain, exact, strict=True):
            ours, theirs = relative_distance(a, reference), relative_distance(b, reference)
            print(f"{name}, {stage}: distance to float32, inference path {ours:.5f}, plain {theirs:.5f}, both in bf16")
            record_property(f"{name}, {stage}", (ours, theirs))
            assert ours <= 1.02 * theirs, (name, stage)
    assert os.environ.get("SEEDVR_KERNELS") != "plain"
