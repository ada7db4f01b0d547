"""A kill before every step on the disk of a clip in the making, one after another: nothing is lost, nothing left."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "codec,stride", [("png", 4), *(pytest.param(codec, 1, marks=pytest.mark.slow) for codec in ("h264", "ffv1", "png"))]
)
def test_a_kill_before_any_step_is_made_good(tmp_path, codec, stride):
    command = [sys.executable, "-m", "tests.attacks.every_step", str(tmp_path), codec, str(stride)]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    steps, *faults = run.stdout.splitlines()
    assert int(steps) > 25, run.stdout
    assert faults == [], run.stderr
