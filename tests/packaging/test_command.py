"""The console command: which program it starts, with which arguments."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from projects.video_diffusion_sr import cli
from seedvr import __version__, folders
from seedvr.command import chosen_model, main
from tests.conftest import ROOT


def test_places_become_flags_and_flags_stay():
    preset, words = chosen_model("restore", ["--model", "seedvr2_tiny", "in", "out", "--seed", "3"], ["--a", "--b"])
    assert preset.name == "SeedVR2-tiny"
    assert words[:6] == ["--a", "in", "--b", "out", "--seed", "3"]
    _, words = chosen_model("restore", ["in", "--b", "out", "--ckpt_dir=x"], ["--a", "--b"])
    assert words == ["--a", "in", "--b", "out", "--ckpt_dir=x"]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is somebody's current one")
@pytest.mark.parametrize(
    "words", [[f"{ROOT}/projects/inference_seedvr2_tiny.py", "--video_path", "in", "--output_dir", "out"],
              ["-m", "seedvr", "restore", "in", "out"], ["-m", "seedvr", "evaluate"]],
)  # fmt: skip
def test_a_deleted_current_folder_is_a_sentence(tmp_path, words):
    """PyTorch's libraries abort the process there."""
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command = ["sh", "-c", script, "sh", str(tmp_path), sys.executable, *words]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, check=False
    )
    said = "the current folder has been deleted: change to a folder that exists, and start again\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_weights_of_an_installed_package_lie_outside_of_it(monkeypatch, tmp_path):
    assert folders.weights_folder() == folders.ROOT / "ckpts"
    monkeypatch.setattr(folders, "installed", lambda: True)
    monkeypatch.setenv("SEEDVR_CKPT_DIR", str(tmp_path))
    assert folders.weights_folder() == tmp_path
    assert folders.weights_folder(bundled=True) == folders.ROOT / "ckpts"
    monkeypatch.delenv("SEEDVR_CKPT_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folders.weights_folder() == tmp_path / "cache" / "seedvr" / "ckpts"


def test_it_says_its_version_and_what_it_can_do(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"seedvr {__version__}\n"
    assert main(["--version", "--verbose"]) == 0
    facts = capsys.readouterr().out
    for fact in ("python ", "torch ", "libavcodec ", "own kernels: ", "weights in "):
        assert f"\n{fact}" in facts

    assert main(["--help"]) == 0 and "restore" in capsys.readouterr().out
    assert main([]) == 2 and "commands:" in capsys.readouterr().out
    assert main(["restor", "x"]) == 2 and "no command 'restor'" in capsys.readouterr().err


def test_the_changelog_begins_with_the_version():
    headings = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0] == __version__


def test_restore_is_the_program(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(cli, "run", lambda preset, args, history: seen.update(preset=preset, args=args) or 0)
    assert main(["restore", "--model", "seedvr_3b", "in", "out", "--sample_steps", "7"]) == 0
    assert seen["preset"].name == "SeedVR-3B" and seen["args"].sample_steps == 7
    assert (str(seen["args"].video_path), str(seen["args"].output_dir)) == ("in", "out")


def test_a_plan_says_sizes_windows_and_memory_without_weights(tmp_path, capsys):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert main(["plan", "--model", "seedvr2_tiny", str(tmp_path), "--vram", "24", "--scale", "2"]) == 0
    said = capsys.readouterr().out
    assert "64x48 -> 128x96" in said and "the whole clip at once" in said and "within 24.0 GiB" in said
    assert "predicted peak" in said
    assert main(["plan", "--model", "seedvr2_tiny", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("frames", "said"), [(None, "windows of 121"), (121, "whole"), (122, "2 windows"), (500, "5 w")]
)
def test_windows_are_counted(frames, said):
    from types import SimpleNamespace

    from projects.video_diffusion_sr.show_plan import windows

    settings = SimpleNamespace(window=31)  # latents
    budget = SimpleNamespace(settings=settings, networks=SimpleNamespace(vae=SimpleNamespace(temporal_factor=4)))
    assert said in windows(frames, budget)
