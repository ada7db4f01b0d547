"""On a GPU: how far bfloat16 is from float32, stage by stage and whole, with the kernels and without."""

from dataclasses import replace

import pytest
import torch

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.kernels.triton_support import Kernels, kernels
from models.video_vae_v3.modules.schedule import F23, F43, default_schedule, filled_slice
from projects.benchmarking.pipeline import NoiseClip, Pipeline
from projects.benchmarking.timing import relative_distance
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.memory.plan import unplanned
from projects.video_diffusion_sr.presets import SEEDVR2_3B
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.settings import resolve

pytestmark = pytest.mark.gpu

SIZE, FRAMES = (256, 448), 17


def results(pipeline: Pipeline, inputs: dict | None = None) -> dict[str, torch.Tensor]:
    """What each stage makes of the given inputs (its own, where there are none)."""
    pipeline.encode()
    found = {"encode": torch.cat(pipeline.latents)}
    pipeline.latents = [found["encode"] if inputs is None else inputs["encode"]]
    pipeline.transformer()
    found["transformer"] = torch.cat(pipeline.restored)
    pipeline.restored = [found["transformer"] if inputs is None else inputs["transformer"]]
    pipeline.decode()
    found["decode"] = pipeline.result.float() - 127.5
    return found


@pytest.mark.parametrize("winograd", [F43, F23])
@torch.no_grad()
def test_distances(winograd, record_property):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    clip = NoiseClip(FRAMES, *SIZE)
    request = Request(res=SIZE, result_options=ResultOptions(color_fix="none"), random_weights=True)

    def run(dtype: str, fold: bool, inputs: dict | None = None) -> dict[str, torch.Tensor]:
        with process_group("cuda") as process, kernels(Kernels.AUTO if fold else Kernels.PLAIN):
            settings = resolve(SEEDVR2_3B, replace(request, dtype=dtype), process.device)
            frames = max(filled_slice(settings.vae.levels, *SIZE, winograd), settings.vae.temporal_factor)
            schedule = default_schedule(settings.vae.levels, *SIZE, frames, winograd)
            plan = replace(unplanned(settings, *SIZE, False), schedule=schedule)
            restorer = load(settings, Parallel(process), [plan], fold)
            return results(Pipeline(restorer, clip, plan, keep_result=True), inputs)

    exact = run("float32", fold=False)
    same = run("float32", fold=True)
    assert relative_distance(same["encode"], exact["encode"]) < 2e-5
    assert relative_distance(same["transformer"], exact["transformer"]) < 1e-3
    fast, plain = (run("bfloat16", fold, exact) for fold in (True, False))
    for stage, reference in exact.items():
        ours, theirs = relative_distance(fast[stage], reference), relative_distance(plain[stage], reference)
        print(f"{stage}: distance to float32, inference path in bf16 {ours:.5f}, plain in bf16 {theirs:.5f}")
        record_property(stage, (ours, theirs))
        assert ours <= 1.1 * theirs, stage
