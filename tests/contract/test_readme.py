"""The README says nothing that is not so: its commands are understood, its files exist, its demo runs."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from projects import demo, download
from projects.video_diffusion_sr.cli_parser import parse_flags
from projects.video_diffusion_sr.presets import PRESETS
from seedvr.command import chosen_model
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.splitlines() if re.match(r"    \S", line)]


def test_it_names_the_two_commands():
    assert "make demo" in COMMANDS and "make test" in COMMANDS


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    plan = subprocess.run([*command.split(), "--dry-run"], check=False, cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert {"make demo": "projects/demo.py", "make test": "pytest"}[command] in plan.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if "projects/" in c])
def test_commands_are_understood(command):
    words = shlex.split(command)
    script = next(i for i, word in enumerate(words) if word.startswith("projects/"))
    assert (ROOT / words[script]).is_file()
    if "inference_" in words[script]:
        preset = PRESETS[words[script].removeprefix("projects/inference_").removesuffix(".py")]
        assert parse_flags(preset, words[script + 1 :])
    elif words[script].endswith("download.py"):
        assert download.parse(words[script + 1 :])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("seedvr ")])
def test_console_commands_are_understood(command):
    _, name, *rest = shlex.split(command)
    if name == "download":
        assert download.parse(rest)
        return
    places = {"restore": ["--video_path", "--output_dir"], "plan": ["--video_path"]}[name]
    preset, arguments = chosen_model(name, rest, places)
    assert parse_flags(preset, [*arguments, *(["--plan"] if name == "plan" else [])])


@pytest.mark.parametrize("flag", re.findall(r"^\| `(--[^`]+)`", README, flags=re.M))
def test_flags_in_the_table_exist(flag):
    name, *value = flag.split()
    given = [name, *(["a=1"] if name == "--set" else value)]
    assert parse_flags(PRESETS["seedvr2_3b"], ["--video_path", "a", "--output_dir", "b", *given])


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


EXPLAIN = """
# Each program in a process of its own, which shares only the libraries that take seconds to import.
import os, runpy, sys, tempfile
import torch, numpy
for script in sys.argv[1:]:
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(script, code, "usage:" in said.read(), flush=True)
"""


QUICK = ("inference_seedvr2_tiny", "download", "evaluate", "train")


@pytest.mark.parametrize("names", [QUICK, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_program_explains_itself_from_a_foreign_folder(tmp_path, names):
    alike = {"__init__", *(f"inference_{name}" for name in PRESETS if name != "seedvr2_tiny")}
    scripts = sorted(path for path in (ROOT / "projects").glob("*.py") if path.stem not in alike)
    scripts = [path for path in scripts if "__main__" in path.read_text(encoding="utf-8")]  # program.py is none
    scripts = [path for path in scripts if names is None or path.stem in names]
    command = [sys.executable, "-c", EXPLAIN, *map(str, scripts)]
    said = subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True).stdout
    assert said.splitlines() == [f"{script} 0 True" for script in scripts]


def test_the_demo_can_be_repeated(tmp_path):
    clip = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    first = demo.write(clip, tmp_path / "clip.mp4").read_bytes()
    assert demo.write(clip, tmp_path / "clip.mp4").read_bytes() == first


def test_the_demo_runs(tmp_path):
    command = [sys.executable, str(ROOT / "projects" / "demo.py"), "--frames", "3", "--output", "out"]
    said = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "PSNR against the clean clip" in said.stderr
    for made in ("restored/coffee.mp4", "restored/compare/coffee.mp4", "restored/compare/coffee.png"):
        assert (tmp_path / "out" / made).stat().st_size > 0
