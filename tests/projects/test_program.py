"""Programs end alike: an expected error is one line and a status, a mistake keeps its traceback; --set is one flag."""

import signal

import pytest

from common.extras import MissingExtra
from common.signals import Interrupted
from projects.program import add_settings, new_parser, parse_with_settings, run_program


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


def test_a_signal_gives_the_status_that_shells_give():
    def stopped(_arguments):
        raise Interrupted(signal.SIGTERM)

    assert run_program(stopped, []) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    "line",
    [["--set", "a=1", "b=2"], ["a=1", "b=2"], ["a=1", "--set", "b=2"], ["--set", "a=1", "--set", "b=2"]],
)
def test_settings_are_the_same_with_and_without_their_flag(line):
    parser = new_parser("A program.")
    add_settings(parser, "changes to the YAML")
    assert parse_with_settings(parser, line).overrides == ["a=1", "b=2"]
