"""On a GPU: however a plan places the tiny preset's networks, the result is that of networks that stay."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from projects.video_diffusion_sr.memory_plan import MemoryPlan
from projects.video_diffusion_sr.memory_prediction import GIB

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from projects.video_diffusion_sr.build import Request, build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.projects.test_restore import frames_before_the_codec, write_clip

pytestmark = pytest.mark.gpu

RES, FRAMES, WINDOW = (192, 288), 20, 13  # two windows: what the VAE carries is parked in between
FRAME = 192 * 288 * 16 * 4  # bytes at the tiny VAE's widest level

WAYS = {
    "none": MemoryPlan(),
    "models": MemoryPlan(offload="models", park=True),
    "models, fetched early": MemoryPlan(offload="models", prefetch=True, park=True),
    "by fours": MemoryPlan(offload="models", slice_frames=8, park=True),
    "one by one": MemoryPlan(offload="models", fours=False, park=True),
    "lean": MemoryPlan(offload="models", fours=False, lean=True, park=True),
    "blocks": MemoryPlan(offload="blocks", token_chunk=700, park=True),
    "cut": MemoryPlan(vae_frames=1, conv_max_mem=3 * FRAME / GIB, offload="models", park=True),
    "one tile": MemoryPlan(tile=72, slice_frames=8, offload="models", conv_max_mem=3 * FRAME / GIB),
    "8 bit": MemoryPlan(storage_8_bit=True),
    "8 bit, models": MemoryPlan(storage_8_bit=True, offload="models"),
    "8 bit, blocks": MemoryPlan(storage_8_bit=True, offload="blocks"),
    "tiles": MemoryPlan(tile=48, slice_frames=8, offload="models", conv_max_mem=3 * FRAME / GIB),
}
TOLERANCE = {"8 bit": 1.5, "8 bit, models": 1.5, "8 bit, blocks": 1.5, "tiles": 2.0}  # mean levels of 255


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, (48, 72))


@pytest.fixture(scope="module")
def frames_of(clip):
    """[T, 3, H, W] levels of two runs one after the other: what travels must also come a second time."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def run(way: MemoryPlan, rolls: str) -> list[torch.Tensor]:
        with process_group("cuda") as process:
            request = Request(res=RES, window_frames=WINDOW, dtype="float32")
            restorer = build(SEEDVR2_TINY, request, Parallel(process), [replace(way, rolls=rolls)])
            restorer = replace(restorer, split_size=way.slice_frames or restorer.split_size)
            return [frames_before_the_codec(restorer, clip).float() for _ in range(2)]

    return run


@pytest.fixture(scope="module")
def resident(frames_of) -> torch.Tensor:
    return frames_of(MemoryPlan(), "off")[0]


@pytest.mark.parametrize(
    ("name", "rolls"),
    [
        *((name, "off") for name in WAYS),
        *((name, "all") for name in ("by fours", "one by one", "lean")),
        ("cut", "full"),
    ],
)
def test_plans_agree_with_networks_that_stay(frames_of, resident, name, rolls):
    for frames in frames_of(WAYS[name], rolls):
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
