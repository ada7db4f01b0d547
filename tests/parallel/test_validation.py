"""Held-out clips are shared out: any number of ranks measures the same, and each decodes its own alone."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from common.config import create_object, load_config
from common.distributed.parallel import Parallel
from common.distributed.process import Process, process_group
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.placement import place_networks
from projects.video_diffusion_sr.training.settings import ValidationSettings
from projects.video_diffusion_sr.training.validation import Validation
from tests.conftest import ROOT
from tests.parallel.ranks import run_ranks
from tests.projects.training.tiny import MODEL, seeded_vae

pytestmark = pytest.mark.parallel

SIZES = [(5, 32, 48), (1, 32, 32), (5, 64, 32), (1, 32, 48), (5, 32, 32)]  # frames, height, width
SMALL_WINDOWS = "dit.model.window=[[4,3,3],[4,3,3],[4,3,3],[4,3,3]]"


def held_out() -> list[list[dict]]:
    draws = torch.Generator().manual_seed(3)
    made = []
    for number, (frames, height, width) in enumerate(SIZES):
        hq = torch.rand(3, frames, height, width, generator=draws) * 2 - 1
        made.append([{"hq": hq, "lq": hq + 0.1, "identity": f"clip {number}"}])
    return made


def measure(folder: Path, strategy: str, sp_size: int, process: Process) -> None:
    """What this rank measures and how many clips it decodes, into a file."""
    generator = torch.Generator().manual_seed(0)
    prompts = TrainingPrompts(*(torch.randn(n, 24, generator=generator) for n in (3, 5)))
    changes = [*MODEL, f"vae.checkpoint={folder / 'vae.safetensors'}", SMALL_WINDOWS]
    recipe = create_object(load_config(ROOT / "configs_tiny/main.yaml", changes))
    torch.manual_seed(0)
    stage = DiffusionStage(recipe, DiffusionStageSettings(image_steps=2), prompts, None)
    if sp_size > 1:
        stage.share_clips(Parallel(process, sp_size))
    stage.set_device(process.device)
    place_networks(stage, strategy, process.device, bf16=False, compiled=False)
    decoded = []
    original = stage.decoded
    stage.decoded = lambda rows, shapes: (decoded.append(shapes.sizes), original(rows, shapes))[1]
    values, pictures = Validation(held_out(), ValidationSettings(), process, sp_size).measure(stage)
    found = {"values": values, "decoded": len(decoded), "pictures": sorted(pictures)}
    (folder / f"{process.world}_{sp_size}_{process.rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    seeded_vae(folder)
    with process_group("cpu") as process, torch.no_grad():
        measure(folder, "NO_SHARD", 1, process)
    return folder


@pytest.mark.parametrize(
    ("world", "sp_size", "strategy"),
    [
        pytest.param(2, 1, "FULL_SHARD", marks=pytest.mark.slow),
        pytest.param(2, 2, "FULL_SHARD", marks=pytest.mark.slow),
        pytest.param(3, 1, "NO_SHARD", marks=pytest.mark.slow),
        pytest.param(4, 2, "NO_SHARD", marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_measures_the_same(folder, world, sp_size, strategy):
    alone = json.loads((folder / "1_1_0.json").read_text())
    assert alone["decoded"] == len(SIZES)
    run_ranks(world, partial(measure, folder, strategy, sp_size), fresh=True)
    found = [json.loads((folder / f"{world}_{sp_size}_{rank}.json").read_text()) for rank in range(world)]
    for one in found:
        assert one["values"] == pytest.approx(alone["values"], rel=1e-4)
    assert sum(one["decoded"] for one in found) == len(SIZES)  # each clip once
    assert max(one["decoded"] for one in found) == -(-len(SIZES) // world)
