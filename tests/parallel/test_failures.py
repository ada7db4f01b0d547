"""A rank that fails ends the job: soon, the cause named, exit non-zero; a restart loses and repeats nothing."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.distributed import process, refusal
from common.distributed.failures import RefusedRequest, report_failure
from common.distributed.launcher import free_port
from common.distributed.process import Process, process_group, read_launcher
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.conftest import ROOT
from tests.parallel.job import FAILS_AT, FILES, TIMEOUT_S

pytestmark = pytest.mark.parallel

JOB = Path(__file__).with_name("job.py")
STARTING_S = 150.0  # importing torch a dozen times on a busy machine


def launch(failure: str, folder: Path) -> subprocess.Popen:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    restarts = ["--max-restarts=1"] if failure == "is killed once" else []
    return subprocess.Popen(
        [*command, *restarts, str(JOB), failure, str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict:
    """Exit status, standard error and folder of all jobs, which run side by side."""
    return run_jobs(tmp_path_factory.mktemp("jobs"), "raises", "hangs", "is killed once")


def run_jobs(root: Path, *failures: str) -> dict:
    """See `jobs`."""
    started = time.monotonic()
    running = {failure: launch(failure, root / failure.replace(" ", "_")) for failure in failures}
    ended = {}
    for failure, job in running.items():
        _, errors = job.communicate(timeout=STARTING_S + TIMEOUT_S)
        ended[failure] = job.returncode, errors, root / failure.replace(" ", "_")
    assert time.monotonic() - started < STARTING_S + TIMEOUT_S
    return ended


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ("raises", "rank 1 of 2 failed during c: ValueError: the file is upside down"),
        ("hangs", " in fail\n"),  # the stack of the one that hangs
        pytest.param("is killed", "Signal 9 (SIGKILL)", marks=pytest.mark.slow),
    ],
)
def test_a_failing_rank_ends_the_job_with_its_cause(jobs, failure, cause, tmp_path):
    status, errors, folder = (jobs if failure in jobs else run_jobs(tmp_path, failure))[failure]
    assert status != 0
    assert cause in errors
    root_cause = errors.split("Root Cause (first observed failure)")[1]
    assert "rank      : 1" in root_cause, "the launcher's summary must name the rank that failed first"
    # Hidden is the lock of a rank that the launcher ended; the next run removes it, see tests/attacks/test_claims.py.
    assert sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".") == ["a", "b"]


def test_a_restart_repeats_nothing_and_loses_nothing(jobs):
    status, _, folder = jobs["is killed once"]
    assert status == 0
    written = {path.name: path.read_text() for path in folder.iterdir()}
    expected = {"a": 0, "b": 0, FAILS_AT: 1, "d": 1}
    assert written == {name: f"attempt {attempt}\n" for name, attempt in expected.items()}
    assert written.keys() == FILES.keys(), "the journal is gone when everything is done"


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"sp_size=4 does not divide the 6 processes .* use one of 1, 2, 3, 6"):
        Process(0, 6, 0, torch.device("cpu"), "gloo", 0, 60.0).check_divides(4)


def test_half_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        read_launcher()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RANK": "second"}, "RANK='second' is not a whole number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' is not a whole number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http' is not a whole number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536 is no port"),
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE='two' is not a whole number"),
        ({"RANK": "2"}, "RANK=2 does not fit WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK=-1 does not fit WORLD_SIZE=2"),
        ({"MASTER_PORT": None}, "MASTER_PORT not set"),
        ({}, "rank 1 of 2 found no job at MASTER_ADDR=127.0.0.1 MASTER_PORT="),  # nobody listens there
    ],
)
def test_a_wrong_launcher_is_named_by_a_rank_that_nobody_joins(tmp_path, monkeypatch, capsys, wrong, said):
    right = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"} | right | wrong).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    flags = ["--video_path", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--device", "cpu", "--timeout", "1"]
    assert cli.main(SEEDVR2_TINY, flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "torchrun" in line]
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "out").exists()


def test_a_missing_nccl_is_a_sentence(monkeypatch):
    monkeypatch.setattr(process.dist, "is_nccl_available", lambda: False)
    monkeypatch.setattr(process.torch.cuda, "device_count", lambda: 8)
    with pytest.raises(RuntimeError, match="no NCCL"):
        process.choose_backend(torch.device("cuda", 0), local_world=8)


def test_alone_nothing_is_started(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as alone:
        assert (alone.rank, alone.world, alone.backend, alone.is_leader) == (0, 1, None, True)
        assert not torch.distributed.is_initialized()


def test_a_refusal_is_said_once_and_an_interrupt_not_at_all(caplog):
    store = torch.distributed.HashStore()
    for rank in range(3):
        report_failure(RefusedRequest("no such flag"), Process(rank, 3, 0, torch.device("cpu"), "gloo", 0, 9.0, store))
        report_failure(KeyboardInterrupt(), Process(rank, 3, 0, torch.device("cpu"), "gloo", 0, 9.0, store))
    assert [record.getMessage() for record in caplog.records] == ["no such flag"]
    report_failure(RefusedRequest("here it lacks"), Process(2, 3, 0, torch.device("cpu"), "gloo", 0, 9.0, store))
    assert caplog.records[-1].getMessage() == "here it lacks", "a refusal of one rank alone is not lost"


@pytest.mark.parametrize("program", ["inference_seedvr2_tiny.py", "train.py"])
def test_a_refused_start_is_said_once_and_stands_last_in_the_summary(program):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    told = subprocess.run(
        [*command, str(ROOT / "projects" / program), "--no_such_flag"],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=STARTING_S,
    )
    said, _, summary = told.stderr.partition("Traceback (most recent call last)")
    assert told.returncode == 1 and said.count("error: the following arguments are required") == 1
    # One rank has failed. The other was ended, and is listed as such if it had not yet come to its flags.
    assert re.findall(r"exitcode *: (\S+)", summary) in (["2"], ["-15", "2"])
    assert summary.count("error: the following arguments are required") == 1
    *_, last, rule = summary.strip().splitlines()
    assert "error: the following arguments are required" in last and set(rule) == {"="}


def test_wrong_flags_are_told_by_another_rank_if_the_first_one_is_still_starting(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(refusal, "wait_for_end", lambda: waited.append(True))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="2"):
        refusal.JobParser(prog="train.py").parse_args(["--no_such_flag"])
    assert waited and "train.py: error: unrecognized arguments: --no_such_flag" in capsys.readouterr().err


def test_a_refusal_is_left_for_the_summary_by_the_rank_that_speaks(tmp_path, monkeypatch):
    file, said, waited = tmp_path / "attempt_0" / "error.json", [], []
    monkeypatch.setattr(refusal, "wait_for_end", lambda: waited.append(True))
    monkeypatch.setenv(refusal.ERROR_FILE, str(file))
    for rank in (0, 1):  # the second one is not ended: the first one does not fail, so it speaks itself
        monkeypatch.setenv("RANK", str(rank))
        file.unlink(missing_ok=True)
        refusal.tell_refusal(f"no {rank}", said.append)
        assert json.loads(file.read_text())["message"]["message"] == f"no {rank}"
    assert said == ["no 0", "no 1"] and len(waited) == 1
    refusal.tell_refusal("no 2", said.append)  # its own failure is recorded already: nothing to wait for
    assert len(waited) == 1
