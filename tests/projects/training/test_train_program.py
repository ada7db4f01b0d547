"""The programs as a user starts them: all four stages on a handful of clips, a kill, a resume, an export."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from projects.export import main as export
from projects.precompute_latents import main as precompute
from projects.train import main as train
from projects.video_diffusion_sr.lora import load_lora
from tests.conftest import ROOT
from tests.projects.training.tiny import MODEL, seeded_vae

SMALL = [
    "train.steps=2",
    "train.precision=float32",
    "train.compile=False",
    "train.log.every=1",
    "train.log.images=2",
    "train.checkpoint.every=1",
]
CLIPS = [
    "train.data.workers=0",
    "train.data.budget_pixels=9000",
    "train.data.shapes=[{frames: 1, height: 32, width: 48},{frames: 3, height: 32, width: 32}]",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder of two photographs, a short video, and a file that is broken."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        noise = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(noise, (96, 80), interpolation=cv2.INTER_CUBIC))
    writer = cv2.VideoWriter(str(folder / "c.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 8, (64, 48))
    for frame in rng.integers(0, 255, (5, 6, 8, 3), dtype=np.uint8):
        writer.write(cv2.resize(frame, (64, 48), interpolation=cv2.INTER_CUBIC))
    writer.release()
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def command(stage: str, data: Path, output: Path, *more: str) -> list[str]:
    config = ["--config", str(ROOT / "configs_tiny/main.yaml"), "--train", str(ROOT / f"configs_train/{stage}.yaml")]
    where = ["--device", "cpu", "--data", str(data), "--output", str(output)]
    return [stage, *MODEL, *SMALL, *CLIPS, *config, *where, *more]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_all_stages_from_clips_to_a_one_step_model(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(command("vae", clips, tmp_path / "vae", *vae_overrides())) == 0
    vae = f"vae.checkpoint={tmp_path / 'vae/export/vae.safetensors'}"
    assert train([*command("diffusion", clips, tmp_path / "diffusion"), vae]) == 0
    diffusion = str(tmp_path / "diffusion/export/dit.safetensors")
    distill = [*command("distill", clips, tmp_path / "distill"), vae, "train.distill.rounds=[2,1]"]
    assert train([*distill, "--init_from", diffusion]) == 0
    last = str(tmp_path / "distill/export/dit.safetensors")
    weights = ["--init_from", last, "--init_discriminator", diffusion]
    assert train([*command("adversarial", clips, tmp_path / "adversarial", *weights), vae]) == 0

    exported = load_file(tmp_path / "adversarial/export/dit.safetensors")
    model = create_object(load_config(ROOT / "configs_tiny/main.yaml", MODEL).dit.model)
    model.load_state_dict(exported)  # exactly the names that inference loads
    assert any(not torch.equal(exported[key], value) for key, value in load_file(last).items())
    for name in ("vae", "diffusion", "distill/round_002", "distill/round_001", "adversarial"):
        assert [line["step"] for line in metrics(tmp_path / name)] == [0, 1]
        assert list((tmp_path / name / "tensorboard").iterdir())
    with pytest.raises(FileNotFoundError, match="its parts do: round_001, round_002"):
        export([str(tmp_path / "distill"), "--output", str(tmp_path / "model.safetensors")])
    assert export([str(tmp_path / "adversarial"), "--output", str(tmp_path / "model.safetensors")]) == 0
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in exported.items())


def test_a_vae_is_exported_with_its_scale_and_another_is_refused(clips, tmp_path):
    assert train(command("vae", clips, tmp_path / "vae", *vae_overrides())) == 0
    exported = tmp_path / "vae/export/vae.safetensors"
    with safe_open(exported, framework="pt") as file:
        header = file.metadata()
    assert header["scaling_factor"] == "1.0000" and set(json.loads(header["latent_std"])) == {1.0}
    wrong = [f"vae.checkpoint={exported}", "vae.scaling_factor=0.9152"]
    with pytest.raises(ValueError, match=r"vae\.safetensors: .* add vae\.scaling_factor=1 behind the stage"):
        train([*command("diffusion", clips, tmp_path / "diffusion"), *wrong])


def test_held_out_clips_texts_and_records(clips, tmp_path, capsys):
    """One run with --validation and a clip that has a text of its own; its folder says how it was started."""
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    save_file({"text": torch.randn(6, 24)}, folder / "c.safetensors")
    flags = [f"vae.checkpoint={seeded_vae(tmp_path)}", "--validation", str(clips)]
    assert train([*command("diffusion", folder, tmp_path / "run"), *flags]) == 0
    values = [line for line in metrics(tmp_path / "run") if "validation/psnr" in line]
    assert [line["step"] for line in values] == [1] and 5 < values[0]["validation/psnr"] < 60
    assert json.loads((tmp_path / "run/index.json").read_text())["sources"][2]["text"].endswith("c.safetensors")
    assert train([*command("diffusion", folder, tmp_path / "run"), *flags, "train.steps=3"]) == 0
    assert "changed since the last start of this run: train.steps: 2 -> 3" in capsys.readouterr().err
    assert len(list((tmp_path / "run/starts").iterdir())) == 2


def vae_overrides() -> list[str]:
    return ["train.vae.gan.start=1", "train.vae.gan.channels=[8,8]"]


def test_a_killed_run_goes_on_with_the_same_numbers(clips, tmp_path, monkeypatch):
    """SIGKILL in the middle, nothing caught; the same command then gives what an undisturbed run gives."""
    arguments = [f"vae.checkpoint={seeded_vae(tmp_path)}", "train.steps=8", "train.log.images=0"]
    assert train([*command("diffusion", clips, tmp_path / "whole"), *arguments]) == 0
    killed = tmp_path / "killed"
    line = [sys.executable, str(ROOT / "projects/train.py"), *command("diffusion", clips, killed), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it, on some CPUs
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step_00000003").is_dir() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = len(metrics(killed))
    assert 3 <= before < 8
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "dit/to')  # a line that the kill cut in two
    monkeypatch.chdir(tmp_path)
    assert train([*command("diffusion", clips, killed), *arguments]) == 0
    kept = ("step", "dit/total", "dit/gradient_norm", "dit/lr")
    a, b = ([{key: line[key] for key in kept} for line in metrics(tmp_path / name)] for name in ("whole", "killed"))
    assert a == b and len(a) == 8
    whole, again = (load_file(tmp_path / name / "export/dit.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_latents_are_stored_once_and_trained_on_from_memory(clips, tmp_path):
    vae, folder = f"vae.checkpoint={seeded_vae(tmp_path)}", tmp_path / "latents"
    flags = ["--config", str(ROOT / "configs_tiny/main.yaml"), "--device", "cpu"]
    stored = [*MODEL, *CLIPS, vae, *flags, "--data", str(clips), "--output", str(folder), "--batches", "3"]
    assert precompute(stored) == 0
    index = (folder / "index.json").read_text()
    first = next((folder / "part_000").glob("*.safetensors"))
    assert {value.dtype for value in load_file(first).values()} == {torch.float16}
    (folder / "index.json").unlink()  # as if the job had been killed before the last thing it does
    assert precompute(stored) == 0 and (folder / "index.json").read_text() == index
    resident = ["train.data.resident=True", "train.data.budget_latents=300", vae]
    assert train([*command("diffusion", folder, tmp_path / "run"), *resident]) == 0
    assert len(metrics(tmp_path / "run")) == 2


@torch.no_grad()
def test_a_lora_is_trained_stopped_resumed_and_merged(clips, tmp_path):
    torch.manual_seed(0)
    build = load_config(ROOT / "configs_tiny/main.yaml", MODEL).dit.model
    base = create_object(build)
    save_safetensors(base.state_dict(), tmp_path / "base.safetensors")
    flags = [f"vae.checkpoint={seeded_vae(tmp_path)}", "train.log.images=0"]
    flags += ["--lora", "rank=2,alpha=4", "--init_from", str(tmp_path / "base.safetensors")]
    with torch.enable_grad():
        assert train([*command("diffusion", clips, tmp_path / "run"), *flags]) == 0
        assert train([*command("diffusion", clips, tmp_path / "run"), *flags, "train.steps=3"]) == 0
    exported = load_file(tmp_path / "run/export/lora.safetensors")
    assert len(exported) > 0 and all("lora_" in name for name in exported)
    assert export([str(tmp_path / "run"), "--output", str(tmp_path / "again.safetensors")]) == 0
    again = load_file(tmp_path / "again.safetensors")
    assert exported.keys() == again.keys() and all(torch.equal(again[name], exported[name]) for name in exported)
    merged = create_object(build)
    merged.load_state_dict(base.state_dict())
    load_lora(merged, tmp_path / "run/export/lora.safetensors")
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, base.state_dict()[name])}
    assert changed and all(".attn." in name or ".mlp." in name for name in changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["train.sreps=3"], r"unknown config key train\.sreps: .*did you mean steps\?"),
        (["steps=10"], r"write train\.steps=10"),
        (["dit.model.num_layer=3"], "unknown config key dit.model.num_layer"),
        (["--resume", "never"], "holds a run already"),
        (["train.data.shapes=[]"], "data.shapes"),
        (["--discriminator_config", "configs_7b/main.yaml"], "for the stage adversarial"),
        (["--teacher", "teacher.safetensors"], "go together, in the stage distill"),
        (["train.diffusion.optimizer.lr=0"], "lr > 0"),
    ],
)
def test_mistakes_are_said_in_a_sentence(clips, tmp_path, change, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    with pytest.raises(ValueError, match=message):
        train([*command("diffusion", clips, tmp_path / "run"), *change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "{}/nothing"], "nothing does not exist; name folders"),
        (["--data", "{}/empty"], "empty: no image, video or tar of them is there"),
        (["--data", "{}/bad"], "bad: no image or video can be read, 1 broken"),
        (["--output", "{}/bad/broken.jpg"], "broken.jpg is a file"),
        (["--init_from", "{}/other"], r"other is a folder; .* such as .*other/export/dit\.safetensors"),
    ],
)
def test_paths_that_are_no_good_are_said_and_leave_no_start(clips, tmp_path, change, message):
    for name in ("empty", "bad", "other/export"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(clips / "broken.jpg", tmp_path / "bad")
    (tmp_path / "other/export/dit.safetensors").touch()
    vae = f"vae.checkpoint={seeded_vae(tmp_path)}"
    words = [*command("diffusion", clips, tmp_path / "run"), vae, *(word.format(tmp_path) for word in change)]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(words)
    assert not (tmp_path / "run" / "starts").exists()


def test_a_folder_belongs_to_one_stage_and_one_process(clips, tmp_path):
    run, vae = tmp_path / "run", f"vae.checkpoint={seeded_vae(tmp_path)}"
    assert train([*command("diffusion", clips, run), vae, "train.steps=1"]) == 0
    weights = run / "export/dit.safetensors"
    before = weights.read_bytes()
    with pytest.raises(ValueError, match="holds a run of the stage diffusion, not distill"):
        train([*command("distill", clips, run), vae, "--init_from", str(weights)])
    assert weights.read_bytes() == before and not any(run.glob("round_*"))
    with pytest.raises(ValueError, match="model that it was written with"):
        train([*command("diffusion", clips, run), vae, "dit.model.heads=1", "dit.model.vid_dim=24"])
    code = f"""
import sys
from pathlib import Path
from projects.video_diffusion_sr.training.run_folder import owned
with owned(Path({str(run)!r})):
    print("claimed", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("projects.video_diffusion_sr.training.run_folder.PATIENCE_S", 0.1)
            with pytest.raises(ValueError, match=f"process {other.pid} on .* writes into .*run now"):
                train([*command("diffusion", clips, run), vae])
        other.kill()  # however it ends, the next one can start
    assert train([*command("diffusion", clips, run), vae]) == 0
    assert not list(run.glob(".seedvr-*"))


def test_stages_that_start_from_weights_ask_for_them(clips, tmp_path):
    for stage in ("distill", "adversarial"):
        with pytest.raises(ValueError, match="--init_from"):
            train(command(stage, clips, tmp_path / stage))
    with pytest.raises(FileNotFoundError, match="no trained VAE at nowhere"):
        train([*command("diffusion", clips, tmp_path / "d"), "vae.checkpoint=nowhere.safetensors"])
    vae = f"vae.checkpoint={seeded_vae(tmp_path)}"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train([*command("distill", clips, tmp_path / "e"), vae, "--init_from", "nowhere.safetensors"])
