"""Training on several ranks: sharded gradients equal whole ones, and a checkpoint fits any number of ranks."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.distributed import fsdp
from common.distributed.checkpoint import averaged_state, checkpoints
from common.distributed.process import Process, process_group
from models.dit_v2.nadit import NaDiT
from models.nadit.recompute import Recompute
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import CheckpointSettings, LogSettings, LoopSettings
from tests.conftest import GOLDEN, seed_weights, seeded
from tests.parallel.ranks import run_ranks
from tests.projects.training.toy import ToySource, ToyStage

pytestmark = pytest.mark.parallel

SETTINGS = LoopSettings(
    steps=4, accumulation=2, precision="float32", checkpoint=CheckpointSettings(2, 9), log=LogSettings(1, 2)
)
STRATEGIES = {  # ranks, and ranks of one host
    "NO_SHARD": (2, 2),
    "FULL_SHARD": (2, 2),
    "SHARD_GRAD_OP": (2, 2),
    "HYBRID_SHARD": (4, 2),
    "_HYBRID_SHARD_ZERO2": (2, 2),
}
SIZES, TEXTS = [(1, 4, 6), (3, 4, 4)], [3, 5]


def samples_loss(dit: NaDiT, chosen: list[int]) -> Tensor:
    """Mean over samples of the mean square of their prediction, packed."""
    vid = torch.cat([seeded(f"train/vid{i}", (*SIZES[i], 33)).flatten(0, 2) for i in chosen])
    txt = torch.cat([seeded(f"train/txt{i}", (TEXTS[i], dit.config.txt_in_dim)) for i in chosen])
    sizes = [SIZES[i] for i in chosen]
    times = torch.tensor([100.0 + 500 * i for i in chosen])
    out = dit(vid, txt, sizes, [[TEXTS[i]] for i in chosen], times).vid_sample
    return torch.stack([part.square().mean() for part in out.split([t * h * w for t, h, w in sizes])]).mean()


QUICK = ("FULL_SHARD", "_HYBRID_SHARD_ZERO2")  # the others start as many processes and are marked slow


def strategies(*names: str) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    ("strategy", "keeps"),
    [
        (QUICK[0], "nothing"),
        *(pytest.param(s, "nothing", marks=pytest.mark.slow) for s in STRATEGIES if s != QUICK[0]),
        pytest.param("FULL_SHARD", "products", marks=pytest.mark.slow),
        pytest.param("FULL_SHARD", "attention", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_a_sharded_step_equal_whole_ones(strategy, keeps):
    config = json.loads((GOLDEN / "meta.json").read_text())["dit/v2_small"]["config"]
    whole = seed_weights(NaDiT(**config))
    samples_loss(whole, [0, 1]).backward()
    expected = {name: p.grad for name, p in whole.named_parameters()}
    state = {name: value.detach() for name, value in whole.state_dict().items()}

    run_ranks(STRATEGIES[strategy][0], partial(check_gradients, strategy, keeps, config, state, expected), fresh=True)


def check_gradients(strategy: str, keeps: str, config: dict, state: dict, expected: dict, process: Process) -> None:
    """On one rank: gradients of its sample, averaged over all, are those of all samples together."""
    os.environ["LOCAL_WORLD_SIZE"] = str(STRATEGIES[strategy][1])
    with torch.device("meta"):
        dit = NaDiT(**config)
    dit.set_gradient_checkpointing(Recompute(1.0, keeps))
    mesh = fsdp.training_mesh(strategy, "cpu")
    assert (mesh is None) == (strategy == "NO_SHARD")
    fsdp.shard(dit, list(dit.blocks), strategy, mesh, bf16=False)
    fsdp.place(dit, "cpu", state)
    parameters = dict(dit.named_parameters())
    with torch.enable_grad():
        samples_loss(dit, [process.rank % 2]).backward()
    fsdp.average_gradients(parameters.values())
    for name, parameter in parameters.items():
        if expected[name] is None:
            assert parameter.grad is None, name
        else:
            scale = expected[name].abs().max()
            assert (fsdp.gather_full(parameter.grad) - expected[name]).abs().max() <= 1e-5 * scale + 1e-7, name


def train(folder: Path, strategy: str, settings: LoopSettings, process: Process) -> None:
    source = ToySource(process.rank, process.world)
    with torch.enable_grad():
        Trainer(ToyStage(noise=0.0), source, settings, folder, process, strategy).run()


def norms(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["generator/gradient_norm"] for line in lines]


@pytest.mark.parametrize("strategy", strategies("NO_SHARD", "SHARD_GRAD_OP", "_HYBRID_SHARD_ZERO2"))
def test_a_run_is_the_same_on_any_number_of_ranks_also_when_it_changes(tmp_path, strategy):
    with process_group("cpu") as alone:
        train(tmp_path / "alone", "NO_SHARD", SETTINGS, alone)
    run_ranks(2, partial(train, tmp_path / "moved", strategy, replace(SETTINGS, steps=2)), fresh=True)
    with process_group("cpu") as alone:
        train(tmp_path / "moved", "NO_SHARD", SETTINGS, alone)
    assert norms(tmp_path / "moved") == pytest.approx(norms(tmp_path / "alone"), rel=1e-4)
    a, b = (averaged_state(checkpoints(tmp_path / n / "checkpoints")[-1]) for n in ("alone", "moved"))
    assert all((a[key] - b[key]).abs().max() < 2e-5 for key in a)
