"""The training page says nothing that is not so: its commands are understood, and the first of them run as typed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from omegaconf import OmegaConf

from common.config import load_config
from common.strict_settings import settings_from
from projects import evaluate, export, precompute_latents, train
from projects.video_diffusion_sr.training.overrides import load_run
from projects.video_diffusion_sr.training.settings import split_settings
from projects.video_diffusion_sr.training.sources import DataSettings
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "training.md").read_text()
PARSERS = {
    "train.py": train.parse,
    "precompute_latents.py": precompute_latents.parse,
    "export.py": export.parse,
    "evaluate.py": lambda words: evaluate.parser().parse_args(words),
}


def commands(text: str) -> list[str]:
    """The lines of all code blocks, joined where a backslash goes on."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, flags=re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def of_program(command: str) -> tuple[str, list[str]] | None:
    """(program, its words) of a command that starts one of ours."""
    words = shlex.split(command)
    place = next((i for i, word in enumerate(words) if word.startswith("projects/")), None)
    return None if place is None else (words[place].removeprefix("projects/"), words[place + 1 :])


@pytest.mark.parametrize("command", [c for c in commands(PAGE) if (of_program(c) or ("",))[0] in PARSERS])
def test_commands_are_understood(command):
    """Flags exist, and so do the keys that are changed."""
    program, words = of_program(command)
    flags = PARSERS[program](words)
    if program == "train.py":
        changes = [w for w in [*flags.overrides, *flags.data, *flags.validation] if "=" in w]
        assert load_run(flags.config, flags.train or f"configs_train/{flags.stage}.yaml", changes)


@pytest.mark.parametrize(
    "name", re.findall(r"`((?:projects|configs_train|data|tests)/[\w/]+\.\w+)", PAGE.replace("STAGE", "vae"))
)
def test_files_exist(name):
    assert (ROOT / name).is_file()


def test_changes_that_the_page_shows_are_keys():
    shown = next(c for c in commands(PAGE) if c.startswith("train.steps="))
    model, run = load_run(ROOT / "configs_3b/main.yaml", ROOT / "configs_train/diffusion.yaml", shlex.split(shown))
    assert run.steps == 2000 and len(run.data.shapes) == 2 and model.dit.compile


@pytest.mark.parametrize("stage", ["vae", "diffusion", "diffusion_from_scratch", "distill", "adversarial", "small"])
def test_recipes_resolve(stage):
    train = OmegaConf.to_container(load_config(ROOT / f"configs_train/{stage}.yaml"))
    loop, data, _ = split_settings(train, "diffusion" if stage in ("diffusion_from_scratch", "small") else stage)
    assert loop.steps and settings_from(DataSettings, data, "train.data.").budget_pixels


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_first_run_works_as_typed(tmp_path):
    """On five clips, from a folder of one's own, down to a restored file; nothing in the repository changes.

    What is restored of clips that were held out gets better.
    """
    for folder, numbers in (("clips", range(5)), ("held_out", range(5, 7))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            write_clip(tmp_path / folder / f"{number}.mp4", number)
    for name in ("projects", "configs_tiny", "configs_train", "ckpts"):
        (tmp_path / name).symlink_to(ROOT / name)
    section = PAGE[PAGE.index("## First run") : PAGE.index("Without `--train`")]
    for command in commands(section):
        words = [sys.executable if word == "python" else word for word in shlex.split(command)]
        done = subprocess.run(words, check=False, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        if words[1].endswith("train.py"):
            assert "steps 1 to 60 into runs/" in done.stderr and "step 1/60" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == [f"{n}.mp4" for n in range(5)]
    assert (tmp_path / "runs/diffusion/starts/000.yaml").is_file()
    lines = (tmp_path / "runs/diffusion/metrics.jsonl").read_text().splitlines()
    measured = [json.loads(line)["validation/psnr"] for line in lines if "validation/psnr" in line]
    assert measured[-1] > measured[0] + 1
    shutil.rmtree(tmp_path / "runs")


def write_clip(path: Path, seed: int) -> None:
    """Seven frames of 72x96 pixels: a pattern that moves."""
    rng = np.random.default_rng(seed)
    wide = np.kron(rng.integers(0, 255, (12, 24, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for i in range(7):
            frame = np.ascontiguousarray(wide[4 : 4 + 72, 3 * i : 3 * i + 96])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
