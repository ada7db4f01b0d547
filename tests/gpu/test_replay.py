"""On a GPU: what is replayed is what was called, and weights arrive as they were sent."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.kernels.replay import ReplayedCalls
from common.upload import BUFFER, in_threads
from projects.benchmarking.pipeline import NoiseClip, Pipeline
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.memory.plan import unplanned
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve

pytestmark = pytest.mark.gpu

SIZES = ((256, 448), (448, 256), (192, 320))


def pictures(replay: bool, steps: int) -> list[torch.Tensor]:
    """Twelve pictures of three sizes, some of them again and again."""
    with process_group("cuda") as process:
        request = Request(res=SIZES[0], random_weights=True, dtype="bfloat16", steps=steps, cfg_scale=2.0)
        settings = resolve(SEEDVR2_TINY, request, process.device)
        restorer = load(settings, Parallel(process))
        made = []
        for number in range(12):
            clip = NoiseClip(1, *SIZES[number // 2 % 3])
            clip._pixels = clip._pixels.roll(number, -1)
            plan = replace(unplanned(settings, clip.info.height, clip.info.width, True), replay=replay)
            pipeline = Pipeline(restorer, clip, plan, keep_result=True)
            pipeline.whole()
            made.append(pipeline.result)
        assert bool(restorer.infer.stages.held_bytes) == replay
        return made


@pytest.mark.parametrize("steps", [1, 3])
def test_pictures_by_graphs_are_the_same_bits(steps):
    for replayed, plain in zip(pictures(True, steps), pictures(False, steps), strict=True):
        assert torch.equal(replayed, plain)


def test_the_oldest_call_is_forgotten_and_a_failing_one_runs_as_it_is():
    calls, device = ReplayedCalls(torch.device("cuda"), most=2), "cuda"
    ran = []

    def double(x: torch.Tensor) -> torch.Tensor:
        ran.append(len(x))
        return x * 2

    for length in (3, 3, 3, 5, 5, 7, 7, 3, 3, 3):
        x = torch.randn(length, device=device)
        assert torch.equal(calls("double", double, x), x + x)
    assert ran == [3, 3, 5, 5, 7, 7, 3, 3], "each length: once plainly, once captured, until two others came"

    def waits(x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())  # the host must wait for the device, which no graph can hold

    x, stream = torch.ones(4, device=device), torch.cuda.current_stream()
    torch.cuda.manual_seed(1)
    expected, cached = torch.randn(4, device=device), torch.empty(2**28, device=device)
    torch.cuda.manual_seed(1)
    assert all(torch.equal(calls("waits", waits, x), x * 4) for _ in range(4))
    assert torch.cuda.current_stream() == stream, "the thread is back in its own stream"
    assert torch.equal(torch.randn(4, device=device), expected), "the device draws the numbers that it would have drawn"
    del cached
    before = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before - 2**30, "the allocator gives memory back"
    calls = ReplayedCalls(torch.device("cuda"))
    assert all(torch.equal(calls("double", double, x), x + x) for _ in range(3)) and calls.nbytes > 0


def test_uploads_are_exact(tmp_path: Path):
    big = torch.randn(3 * BUFFER // 4 + 5)
    given = {
        "big": big, "half": torch.randn(7, 5).half(), "whole numbers": torch.arange(9), "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3), "transposed": torch.randn(6, 4).T, "float8": torch.randn(33).to(torch.float8_e4m3fn),
        **{str(n): torch.randn(1000 + n) for n in range(200)},
    }  # fmt: skip
    torch.save(given, tmp_path / "weights.pth")
    mapped = torch.load(tmp_path / "weights.pth", mmap=True, weights_only=True)
    arrived = in_threads(lambda name, upload: upload(mapped[name]), mapped, torch.device("cuda", 0))
    assert list(arrived) == list(given)
    for name, tensor in arrived.items():
        assert tensor.is_cuda and tensor.dtype == given[name].dtype and tensor.shape == given[name].shape
        mine, sent = (x.cpu().contiguous().reshape(-1).view(torch.uint8) for x in (tensor, given[name]))
        assert torch.equal(mine, sent), name
