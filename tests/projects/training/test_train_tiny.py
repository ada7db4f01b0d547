"""The tiny recipe from pictures to a one-step model, in steps that a CPU takes in seconds."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from common.config import load_config
from projects.train_tiny import main
from projects.video_diffusion_sr.training.latent_statistics import stated_scale
from projects.video_diffusion_sr.training.stop_signals import StopVote
from projects.video_diffusion_sr.training.tiny import pair_latents

OVERRIDES = [
    "pairs.workers=0",
    "pairs.rounds=1",
    "pairs.sets=[{shape: [3, 32, 48], count: 2}, {shape: [1, 48, 32], count: 2}]",
    "vae.loop.steps=2",
    "vae.data.shape=[3,32,32]",
    "vae.data.clips=2",
    "fit.loop.steps=4",
    "fit.loop.checkpoint.every=2",
    "fit.loop.log.every=1",
    "fit.settings.optimizer.warmup=1",
    "fit.sets={first: 1, every: 2}",
    "fit.budget_latents=400",
    "fit.head_batches=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole chain; the folder of the run and of its pictures."""
    data, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(data / f"{i}.png")
    for command in ("pairs", "vae", "fit"):
        main([command, "--data", str(data), "--output", str(output), *OVERRIDES])
    return output, data


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["dit/total"] for line in lines if "dit/total" in line}


def test_every_part_leaves_its_weights(run):
    output, _ = run
    assert stated_scale(output / "vae/export/vae.safetensors") == 1
    start, fitted = (load_file(output / "fit" / name) for name in ("start.safetensors", "export/dit.safetensors"))
    assert start.keys() == fitted.keys()
    assert not torch.equal(fitted["blocks.0.mlp.vid.proj_in.weight"], start["blocks.0.mlp.vid.proj_in.weight"])


@pytest.mark.slow
def test_a_stopped_fit_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    """The second set of pairs is read at its step, whether it was there before or the run was stopped in between."""
    output, _ = run
    (tmp_path / "vae").symlink_to(output / "vae")
    (tmp_path / "pairs").symlink_to(output / "pairs")
    vote, steps = StopVote.passed, 3
    monkeypatch.setattr(StopVote, "passed", lambda self, request, step: step == steps)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--output", str(tmp_path), *OVERRIDES])
    assert stopped.value.code == 3 and not (tmp_path / "fit/export").exists()
    monkeypatch.setattr(StopVote, "passed", vote)
    main(["fit", "--output", str(tmp_path), *OVERRIDES])
    whole, resumed = (load_file(folder / "fit/export/dit.safetensors") for folder in (output, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(output / "fit") == losses(tmp_path / "fit")


def test_pairs_go_on_after_a_stop_and_are_the_same(run, tmp_path):
    output, data = run
    first = {path.parent.name: path.read_bytes() for path in (output / "pairs").glob("*/*.safetensors")}
    assert sorted(first) == ["set_000", "set_001"]
    (output / "pairs/set_001/index.json").unlink()
    (output / "pairs/set_001").rename(tmp_path / "lost")
    main(["pairs", "--data", str(data), "--output", str(output), *OVERRIDES])
    assert {path.parent.name: path.read_bytes() for path in (output / "pairs").glob("*/*.safetensors")} == first


def test_a_set_that_does_not_come_is_a_sentence(run, tmp_path, monkeypatch):
    output, _ = run
    monkeypatch.setattr(pair_latents, "PATIENCE_S", 0.0)
    with pytest.raises(FileNotFoundError, match=r"train_tiny\.py pairs"):
        main(["fit", "--vae", str(output / "vae/export/vae.safetensors"), "--output", str(tmp_path), *OVERRIDES])


def test_the_recipe_has_a_set_for_every_step_that_asks_for_one():
    """The last set is read before the last step, so that none is made for nothing."""
    recipe = OmegaConf.to_container(load_config("configs_train/tiny.yaml"))
    sets, last = recipe["fit"]["sets"], len(recipe["pairs"]["sets"]) * recipe["pairs"]["rounds"]
    assert sets["first"] + (recipe["fit"]["loop"]["steps"] - 1) // sets["every"] >= last
