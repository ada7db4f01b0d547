"""Programs end alike: an expected error is one line and a status, a mistake keeps its traceback; --set is one flag."""

import os
import signal
import subprocess
import sys

import pytest

from common.extras import MissingExtra
from common.signals import Interrupted
from common.standard_output import BROKEN_PIPE
from projects import training_cost
from projects.program import add_settings, new_parser, parse_with_settings, run_program
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "error", [ValueError("a.mp4 is empty"), OSError("a.mp4 is empty"), MissingExtra("a.mp4 is empty")]
)
def test_an_expected_error_is_a_line_and_a_status(error, caplog):
    def fails(_arguments):
        raise error

    assert run_program(fails, []) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["a.mp4 is empty"]


def test_a_mistake_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_program(lambda _arguments: 1 // 0, [])


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_is_what_main_returns(returned, status):
    assert run_program(lambda _arguments: returned, []) == status


@pytest.mark.parametrize(
    ("wish", "status", "line"),
    [
        (Interrupted(signal.SIGTERM), 128 + signal.SIGTERM, "ended by SIGTERM"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "interrupted"),  # Ctrl-C
    ],
)
def test_a_signal_gives_the_status_that_shells_give(wish, status, line, caplog):
    def stopped(_arguments):
        raise wish

    assert run_program(stopped, []) == status
    assert [record.getMessage() for record in caplog.records] == [line]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("print('x' * 100_000)", BROKEN_PIPE, ""),
        ("raise BrokenPipeError('a worker has gone')", 1, "a worker has gone\n"),  # another pipe
    ],
)
def test_a_reader_that_goes_ends_a_program_without_a_word(line, status, said):
    script = "\n".join(
        [
            "import sys",
            "from projects.program import run_program",
            f"def main(_): {line}",
            "sys.exit(run_program(main, []))",
        ]
    )
    end, target = os.pipe()
    if status == BROKEN_PIPE:
        os.close(end)
    try:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(target)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("size", ["21x720", "21x720x1280x3", "a clip", "21x-720x1280", ""])
def test_what_is_no_clip_is_said_by_the_flag(size, capsys):
    with pytest.raises(SystemExit, match="2"):
        training_cost.parse(["--clip", size])
    assert "such as 21x720x1280" in capsys.readouterr().err
    assert training_cost.parse(["--clip", "21x720x1280"]).clip == training_cost.parse([]).clip == (21, 720, 1280)


@pytest.mark.parametrize(
    "line",
    [["--set", "a=1", "b=2"], ["a=1", "b=2"], ["a=1", "--set", "b=2"], ["--set", "a=1", "--set", "b=2"]],
)
def test_settings_are_the_same_with_and_without_their_flag(line):
    parser = new_parser("A program.")
    add_settings(parser, "changes to the YAML")
    assert parse_with_settings(parser, line).overrides == ["a=1", "b=2"]


def test_training_reads_its_flags_before_pytorch_is_imported():
    """Ctrl-C in the seconds that the import takes reaches `run_program`, and wrong flags do not wait for it."""
    code = "import sys; from projects.train import parse; parse(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ["diffusion", "--data", "clips", "--output", "run"]
    assert subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, check=False).returncode == 0
