"""The flags know by heart what other modules define, because nothing that they import may load PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.media import codecs
from projects.video_diffusion_sr.cli import read_request
from projects.video_diffusion_sr.cli_parser import (
    CODECS,
    COLOR_FIXES,
    CONTAINERS,
    DTYPE_NAMES,
    ENCODERS,
    parse_flags,
    parser,
)
from projects.video_diffusion_sr.color_fix import KINDS
from projects.video_diffusion_sr.flag_types import to_name, to_path
from projects.video_diffusion_sr.presets import SEEDVR2_3B, SEEDVR2_TINY
from projects.video_diffusion_sr.request import DTYPES
from tests.conftest import ROOT


def test_the_choices_are_those_that_exist():
    assert COLOR_FIXES == KINDS and set(DTYPE_NAMES) == set(DTYPES)
    assert (CODECS, CONTAINERS, ENCODERS) == (codecs.CODECS, codecs.CONTAINERS, codecs.ENCODERS)


def test_the_example_names_what_the_user_typed():
    assert "example: python projects/inference_seedvr2_3b.py --video" in parser(SEEDVR2_3B).format_help()
    assert "example: seedvr restore --video" in parser(SEEDVR2_3B, "seedvr restore").format_help()


PATHS = [action.option_strings[0] for action in parser(SEEDVR2_TINY)._actions if action.type in (to_name, to_path)]


@pytest.mark.parametrize("flag", PATHS)
def test_an_empty_path_is_not_the_current_folder(flag, capsys):
    """It is what a shell makes of "$FOLDER" where FOLDER is not set."""
    with pytest.raises(SystemExit) as ended:
        parse_flags(SEEDVR2_TINY, ["--video_path", "in", "--output_dir", "out", flag, ""])
    assert ended.value.code == 2 and f"argument {flag}: the path is empty" in capsys.readouterr().err


def test_every_flag_of_a_path_is_checked():
    assert {"--video_path", "--output_dir", "--ckpt_dir", "--checkpoint", "--write_scene_cuts"} <= set(PATHS)
    assert not [action for action in parser(SEEDVR2_TINY)._actions if action.type is Path]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "0", "1e-9", "1e300"])
def test_a_timeout_that_no_job_can_have_is_refused(seconds):
    args = parse_flags(SEEDVR2_TINY, ["--video_path", "in", "--output_dir", "out", f"--timeout={seconds}"])
    with pytest.raises(ValueError, match="--timeout"):
        read_request(args)


@pytest.mark.parametrize(
    "program",
    [
        "from projects.video_diffusion_sr.start import start; start('seedvr2_3b', ['--help'])",
        "from seedvr.command import main; main(['restore', '--model', 'seedvr2_tiny', '--help'])",
    ],
)
def test_help_loads_no_torch(program):
    code = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)\nsys.exit(2)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "--short_side" in said.stdout, said.stderr


def test_a_start_loads_neither_the_compiler_nor_what_training_needs():
    """A user waits for imports. torch._dynamo takes as long as torch itself, and is loaded by `torch.compiler.disable`,
    and by a random number or a division on the meta device, where networks are built."""
    heavy = ("torch._dynamo", "torch.distributed.fsdp", "sympy", "diffusers", "peft", "cv2", "scipy", "skimage")
    code = f"""if True:
        import sys, torch
        from projects.video_diffusion_sr import cli
        from projects.video_diffusion_sr.memory.workload import workload_of
        from projects.video_diffusion_sr.presets import PRESETS
        from projects.video_diffusion_sr.request import Request
        for preset in PRESETS.values():
            settings = cli.resolve(preset, Request(res=(64, 64), random_weights=True), torch.device("cpu"))
        workload_of(settings.vae, settings.dit, torch.bfloat16)  # what a GPU's memory is planned by
        sys.exit(' '.join(sys.modules.keys() & set({heavy!r})) or 0)"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
