"""The tiny recipe from pictures to a one-step model, in steps that a CPU takes in seconds."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from common.config import load_config
from common.distributed.process import process_group
from projects import train_tiny
from projects.fit_tiny import fit
from projects.train_tiny import make_all_pairs, train_dit, train_for, train_vae
from tests.projects.training.toy import ToySource, ToyStage

OVERRIDES = [
    "pairs.workers=0",
    "pairs.rounds=1",
    "pairs.sets=[{shape: [3, 32, 48], count: 2}, {shape: [1, 48, 32], count: 2}]",
    "vae.seconds=0",
    "vae.data.shape=[3,32,32]",
    "vae.data.clips=2",
    "budget_latents=400",
    "diffusion.seconds=0",
    "distill.seconds=0",
    "adversarial.seconds=0",
    "one_step.budget_latents=400",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole chain; the folder of the run and how it was asked for."""
    data, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(data / f"{i}.png")
    recipe = OmegaConf.to_container(load_config("configs_train/tiny.yaml", OVERRIDES), resolve=True)
    for command in (make_all_pairs, train_vae, train_dit):
        command(recipe, [str(data)], output)
    return output, recipe, [str(data)]


def test_every_stage_leaves_its_weights(run):
    output, *_ = run
    folders = ("diffusion", "distill_2", "distill_1", "adversarial")
    states = [load_file(output / folder / "export/dit.safetensors") for folder in folders]
    assert (output / "vae/export/vae.safetensors").is_file()
    assert 0.1 < float((output / "scaling_factor").read_text()) < 10
    for before, after in pairwise(states):
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_was_cut_short_goes_on_at_the_next_stage(run):
    """What is exported stays as it is, what is missing is trained, from the stages that are there."""
    output, recipe, data = run
    kept, lost = output / "distill_1/export/dit.safetensors", output / "adversarial/export/dit.safetensors"
    before = kept.read_bytes()
    lost.unlink()
    train_dit(recipe, data, output)
    assert lost.is_file() and kept.read_bytes() == before


def test_one_step_is_fitted_on_top_of_the_diffusion_stage(run):
    """The last layer is solved first, then all of the network is trained."""
    output, recipe, _ = run
    weights = fit(recipe, output, output / "one_step", seconds=1, batches=4, device="cpu")
    assert weights == output / "one_step/export/dit.safetensors"
    before, fitted = load_file(output / "diffusion/export/dit.safetensors"), load_file(weights)
    start = load_file(output / "one_step/start.safetensors")
    changed = {name for name in before if not torch.equal(before[name], start[name])}
    assert changed == {"vid_out.proj.weight", "vid_out.proj.bias"}
    assert not torch.equal(fitted["blocks.0.mlp.vid.proj_in.weight"], start["blocks.0.mlp.vid.proj_in.weight"])


def test_pairs_go_on_after_a_stop(run):
    output, recipe, data = run
    first = sorted(path.name for path in (output / "pairs").iterdir())
    assert first == ["set_000", "set_001"]
    make_all_pairs({**recipe, "pairs": {**recipe["pairs"], "rounds": 2}}, data, output)
    assert len(list((output / "pairs").glob("set_*"))) == 4


def test_training_for_seconds_ends_in_time_though_it_slows_down(tmp_path, monkeypatch):
    """By a clock that goes with the batches: the first 300 steps tell of four times as many as there will be."""
    now = 0.0

    class SlowingSource(ToySource):
        def batches(self, start: int):
            nonlocal now
            for number, batch in enumerate(super().batches(start), start):
                now += 0.01 if number < 300 else 0.04
                yield batch

    monkeypatch.setattr(train_tiny, "time", SimpleNamespace(perf_counter=lambda: now))
    with process_group("cpu") as process:
        train_for(20.0, ToyStage(), SlowingSource(), tmp_path, 0, process, compiled=False)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 19 < now < 21
    assert last["generator/lr"] < 1e-4 and (tmp_path / "export/net.safetensors").is_file()
