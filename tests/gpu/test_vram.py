"""On a GPU: however a plan places the tiny preset's networks, the result is that of networks that stay."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from models.video_vae_v3.modules.schedule import F23, F43, LevelSchedule, Schedule
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from tests.projects.test_restore import frames_before_the_codec, write_clip

pytestmark = pytest.mark.gpu

RES, FRAMES, WINDOW = (192, 288), 20, 13  # two windows: what the VAE carries is offloaded in between
DIRECTLY = LevelSchedule()


def schedule(*levels: LevelSchedule, frames: int = 2, tile: int | None = None) -> Schedule:
    """The tiny VAE has three levels, the last of which comes half as often."""
    return Schedule(frames, (*levels, *(DIRECTLY,) * (3 - len(levels))), tile=tile)


def filtered(winograd: int, frames: int = 8) -> Schedule:
    return schedule(*(LevelSchedule(winograd, winograd),) * 2, frames=frames)


RESIDENT = MemoryPlan(schedule())
PLANS = {
    "none": RESIDENT,
    "F(4, 3)": MemoryPlan(filtered(F43)),
    "F(2, 3)": MemoryPlan(filtered(F23)),
    "F(4, 3), frames left over": MemoryPlan(filtered(F43, 6)),
    "models": MemoryPlan(filtered(F43), offload="models", offload_carried=True),
    "models, fetched early": MemoryPlan(schedule(), offload="models", prefetch=True, offload_carried=True),
    "models, F(2, 3)": MemoryPlan(filtered(F23, 2), offload="models", offload_carried=True),
    "blocks": MemoryPlan(schedule(), offload="blocks", token_chunk=700, offload_carried=True),
    "single frames": MemoryPlan(schedule(*map(LevelSchedule, (1, 2, 1))), offload="models"),
    "one tile": MemoryPlan(schedule(frames=8, tile=72), offload="models"),
    "8 bit": replace(RESIDENT, storage_8_bit=True),
    "8 bit, models": replace(RESIDENT, storage_8_bit=True, offload="models"),
    "8 bit, blocks": replace(RESIDENT, storage_8_bit=True, offload="blocks"),
    "tiles": MemoryPlan(schedule(frames=8, tile=48), offload="models"),
}
TOLERANCE = {"8 bit": 1.5, "8 bit, models": 1.5, "8 bit, blocks": 1.5, "tiles": 2.0}  # mean levels of 255


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, (48, 72))


@pytest.fixture(scope="module")
def frames_of(clip):
    """[T, 3, H, W] levels of two runs one after the other: what travels must also come a second time."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def run(plan: MemoryPlan) -> list[torch.Tensor]:
        with process_group("cuda") as process:
            request = Request(res=RES, window_frames=WINDOW, dtype="float32")
            restorer = build(SEEDVR2_TINY, request, Parallel(process), [plan])
            return [frames_before_the_codec(restorer, clip, plan).float() for _ in range(2)]

    return run


@pytest.fixture(scope="module")
def resident(frames_of) -> torch.Tensor:
    return frames_of(RESIDENT)[0]


@pytest.mark.parametrize("name", PLANS)
def test_plans_agree_with_networks_that_stay(frames_of, resident, name):
    if PLANS[name].offload == "blocks" or PLANS[name].storage_8_bit:
        pytest.importorskip("diffusers")
    for frames in frames_of(PLANS[name]):
        away = (frames - resident).abs()
        assert away.mean() < TOLERANCE.get(name, 0.02), name
        assert name in TOLERANCE or away.max() <= 2, name


@pytest.mark.parametrize("gib", [2.0, 0.75])
def test_the_command_line_stays_within_its_bound(clip, tmp_path, gib, capfd):
    gc.collect()
    torch.cuda.empty_cache()
    flags = ["--video_path", clip, "--output_dir", tmp_path, "--res_h", RES[0], "--res_w", RES[1], "--window", WINDOW]
    torch.cuda.reset_peak_memory_stats()
    try:
        code = main(SEEDVR2_TINY, [*map(str, flags), "--vram", str(gib), "--device", "cuda"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capfd.readouterr().err
    print(said)
    assert code == 0 and "predicted peak" in said and "reserved" in said
    assert torch.cuda.max_memory_reserved() <= gib * GIB
