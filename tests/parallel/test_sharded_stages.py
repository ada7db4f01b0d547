"""The stages of two networks on several ranks: sharded in every way, a step computes what it computes whole."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from common.distributed.process import Process, process_group
from projects.video_diffusion_sr.training import sources
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.distill import DistillSettings, DistillStage
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    OptimizerSettings,
)
from projects.video_diffusion_sr.training.stage import Source, Stage
from tests.conftest import ROOT, seed_weights
from tests.parallel.ranks import run_ranks
from tests.projects.training.tiny import MODEL, make_recipe, moments

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

SETTINGS = LoopSettings(
    steps=3, precision="float32", checkpoint=CheckpointSettings(2, 2), log=LogSettings(1, 0), seed=4
)
SIZES = [(1, 4, 6), (3, 4, 4)]
FAST = OptimizerSettings(lr=1e-3, betas=(0.0, 0.99))


class Same(Source):
    """Every rank trains on the same samples: the mean over ranks is then what one rank computes."""

    def batches(self, start: int):
        while True:
            yield moments(SIZES, seed=start)
            start += 1


class SameDraws(Trainer):
    """Draws that do not depend on the rank, so that ranks can be compared with one."""

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.turns.process = replace(self.turns.process, rank=0)


def build(kind: str, folder: Path) -> Stage:
    """A stage on seeded weights, with gradient checkpointing, built on the meta device as large ones are."""
    changes = [*MODEL, "dit.gradient_checkpoint=True", "vae.use_sample=False"]
    recipe = create_object(load_config(ROOT / "configs_tiny/main.yaml", changes))
    generator = torch.Generator().manual_seed(0)
    prompts = Prompts(*(torch.randn(n, 24, generator=generator) for n in (3, 5)))
    common = {"recipe": recipe, "prompts": prompts, "with_vae": False, "weights": folder / "dit.safetensors"}
    torch.manual_seed(0)
    if kind == "distill":
        settings = DistillSettings(optimizer=FAST, guidance=1.5)
        return DistillStage(settings=settings, steps=2, guided=True, **common)
    settings = AdversarialSettings(generator=FAST, discriminator=FAST, penalty_values=1e4)
    return AdversarialStage(settings=settings, discriminator_weights=folder / "judge.safetensors", **common)


def train(kind: str, weights: Path, folder: Path, strategy: str, settings: LoopSettings, process: Process) -> None:
    with torch.enable_grad():
        SameDraws(build(kind, weights), Same(), settings, folder, process, strategy).run()


def losses(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "/" in key} for line in lines]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    recipe = make_recipe(folder)
    for name in ("dit", "judge"):
        dit = seed_weights(recipe.build_dit()[0])
        if name == "judge":
            dit.vid_in.proj.weight.data.mul_(1.1)
        save_safetensors(dit.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def alone(weights, tmp_path_factory) -> dict[str, Path]:
    """Runs of one rank."""
    folders = {}
    for kind in ("distill", "adversarial"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        with process_group("cpu") as process:
            train(kind, weights, folders[kind], "NO_SHARD", SETTINGS, process)
    return folders


def without_constant(line: dict) -> dict:
    """`real` less `fake` in place of both."""
    line = dict(line)
    if "discriminator/real" in line:
        line["difference"] = line.pop("discriminator/real") - line.pop("discriminator/fake")
    return line


def check_same(one: Path, several: Path) -> None:
    """The same losses and norms at every step, and the same weights at the end.

    Of the discriminator's answers only differences: no loss depends on a constant added to all of them, so the gradient
    of its last bias is rounding, which Adam makes as large as any other.
    """
    a, b = ([without_constant(line) for line in losses(folder)] for folder in (one, several))
    assert len(a) == len(b) == SETTINGS.steps
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys() and len(x) >= 3
        for key in x:
            assert y[key] == pytest.approx(x[key], rel=2e-3, abs=1e-6), key
    whole, sharded = (load_file(folder / "export/dit.safetensors") for folder in (one, several))
    assert all((whole[key] - sharded[key]).abs().max() < 2e-4 for key in whole)


@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD", "_HYBRID_SHARD_ZERO2"])
@pytest.mark.parametrize("kind", ["distill", "adversarial"])
def test_two_ranks_compute_what_one_does(kind, strategy, weights, alone, tmp_path):
    run_ranks(2, partial(train, kind, weights, tmp_path, strategy, SETTINGS), fresh=True)
    check_same(alone[kind], tmp_path)


def index_of_one(folder: Path, process: Process) -> None:
    """The first rank probes; the second would fail if it did."""
    if process.rank:
        sources.cached_index = sources.build_index = None
    index = sources.shared_index([folder / "clips"], folder / "run" / "index.json", process)
    assert [Path(source.path).name for source in index.sources] == ["a.png"]


def test_ranks_share_one_index(tmp_path):
    (tmp_path / "clips").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "clips" / "a.png")
    run_ranks(2, partial(index_of_one, tmp_path), fresh=True)


def test_a_sharded_run_goes_on_with_checkpoints_beside_training(weights, alone, tmp_path):
    """Stopped after two steps, with asynchronous checkpoints, then resumed."""
    beside = replace(SETTINGS, checkpoint=CheckpointSettings(1, 2, asynchronous=True))
    for steps in (2, 3):
        settings = replace(beside, steps=steps)
        run_ranks(2, partial(train, "adversarial", weights, tmp_path, "FULL_SHARD", settings), fresh=True)
    check_same(alone["adversarial"], tmp_path)
