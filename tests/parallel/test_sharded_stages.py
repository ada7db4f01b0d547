"""The stages of two networks on several ranks: sharded in every way, a step computes what it computes whole."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.distributed import fsdp
from common.distributed.process import Process, process_group
from projects.video_diffusion_sr.training import sources
from projects.video_diffusion_sr.training.settings import CheckpointSettings
from tests.parallel.ranks import run_ranks
from tests.parallel.stages import SETTINGS, Same, SameDraws, build, check_same, save_weights, train

pytestmark = [pytest.mark.parallel, pytest.mark.slow]


train_alike = partial(train, trainer=SameDraws)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def alone(weights, tmp_path_factory) -> dict[str, Path]:
    """Runs of one rank."""
    folders = {}
    for kind in ("distill", "adversarial"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        with process_group("cpu") as process:
            train_alike(kind, weights, folders[kind], "NO_SHARD", SETTINGS, process)
    return folders


@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD", "_HYBRID_SHARD_ZERO2"])
@pytest.mark.parametrize("kind", ["distill", "adversarial"])
def test_two_ranks_compute_what_one_does(kind, strategy, weights, alone, tmp_path):
    run_ranks(2, partial(train_alike, kind, weights, tmp_path, strategy, SETTINGS), fresh=True)
    check_same(alone[kind], tmp_path)


def generators_turn(weights: Path, folder: Path, strategy: str, process: Process) -> None:
    """After a step of both, the generator's losses go backward through the discriminator and leave nothing there.

    In bfloat16, of which sharded gradients become float32.
    """
    with torch.enable_grad():
        settings = replace(SETTINGS, precision="bf16")
        trainer = SameDraws(build("adversarial", weights), Same(), settings, folder, process, strategy)
        batch = next(trainer.source.batches(0))
        _, prepared = trainer.train_step([batch])
        generator = next(player for player in trainer.stage.players if player.name == "generator")
        trainer.updates._pass_through_others(generator)
        with trainer.updates.autocast():
            losses = trainer.stage.losses("generator", prepared, trainer.updates.generator(0, 0, "test"))
        losses["total"].backward()
        for name, module in trainer.stage.modules.items():
            fsdp.reshard(module)
            assert all((p.grad is None) == (name == "discriminator") for p in module.parameters()), name


@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD", "_HYBRID_SHARD_ZERO2"])
def test_the_discriminator_keeps_no_gradients_in_the_generators_turn(strategy, weights, tmp_path):
    run_ranks(2, partial(generators_turn, weights, tmp_path, strategy), fresh=True)


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
        run_ranks(2, partial(train_alike, "adversarial", weights, tmp_path, "FULL_SHARD", settings), fresh=True)
    check_same(alone["adversarial"], tmp_path)
