"""`--gpus N`: the program starts its own processes and ends as they do."""

import signal
import subprocess
import sys
import time

import pytest

from common.distributed import launcher
from projects.video_diffusion_sr import start
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.attacks.harness import ENVIRONMENT, make_folder, seconds_until_gone, workers_of
from tests.conftest import ROOT
from tests.projects.test_restore import write_clip

pytestmark = pytest.mark.parallel


def run(code: str, count: int = 3) -> int:
    return launcher.launch(
        [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK']); {code}"], count
    )


def test_all_are_told_who_they_are(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    code = f"open({str(tmp_path)!r} + '/%d' % rank, 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert run(code) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:4] for words in told] == [[str(rank), str(rank), "3", "3"] for rank in range(3)]
    assert len({tuple(words[4:]) for words in told}) == 1 and int(told[0][6]) >= 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(2)", 2),
        ("sys.exit(rank == 1)", 1),
        ("os.kill(os.getpid(), 9) if rank == 2 else time.sleep(60)", 137),  # the others do not find out by themselves
        ("time.sleep(1) if rank else None; sys.exit(2 * (rank == 2))", 2),
    ],
)
def test_the_first_failure_is_what_the_job_ends_with(monkeypatch, code, expected):
    monkeypatch.setattr(launcher, "PATIENCE_S", 0.5)
    began = time.monotonic()
    assert run(code) == expected and time.monotonic() - began < 30


def test_signals_are_handed_on_and_what_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(launcher, "PATIENCE_S", 0.5)
    monkeypatch.setattr(launcher, "GRACE_S", 0.5)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN if rank else lambda *_: sys.exit(143)); "
    deaf += "os.kill(os.getppid(), 15) if time.sleep(1) is None and rank == 0 else None; time.sleep(60)"
    before = signal.getsignal(signal.SIGTERM)
    assert run(deaf, 2) == 143 and signal.getsignal(signal.SIGTERM) is before


def test_one_process_starts_none_and_torchrun_starts_its_own(tmp_path, monkeypatch, capsys):
    flags = ["--video_path", str(tmp_path / "none"), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(start, "launch", lambda command, count: 100 + count)
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "3"]) == 103
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "1", "--device", "cpu"]) == 2
    monkeypatch.setenv("RANK", "0")
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "3"]) == 2
    assert "leave it out under torchrun" in capsys.readouterr().err


def test_more_processes_than_the_machine_can_run_are_refused(tmp_path, monkeypatch, capsys):
    flags = ["--video_path", str(tmp_path / "none"), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(start, "launch", lambda command, count: 100 + count)
    monkeypatch.setattr(start.os, "cpu_count", lambda: 12)
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "12"]) == 112
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "13"]) == 2
    assert "--gpus 13: this machine has 12 CPU cores" in capsys.readouterr().err
    monkeypatch.setattr(start.os, "cpu_count", lambda: 2)
    assert start.start_preset(SEEDVR2_TINY, [*flags, "--gpus", "8"]) == 108, "a few processes run anywhere"


@pytest.mark.slow
def test_a_refused_job_ends_with_its_sentence_and_2(tmp_path):
    folder = make_folder(tmp_path, 1, clips=2, frames=(5, 6))
    for flags, said in (
        (("--sp_size", "3"), "sp_size=3 does not divide"),
        (("--set", "dit.model.nothing=1"), "dit.model.nothing"),
    ):
        refused = subprocess.run(
            [*folder.command(*flags), "--gpus", "2"], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
        assert refused.returncode == 2 and refused.stderr.count(said) == 1 and "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    done = folder.start("--gpus", "2")
    said = done.communicate(timeout=240)[1]
    assert done.returncode == 0, said
    assert folder.damaged() == [] and folder.missing() == [] and folder.hidden() == []


@pytest.mark.slow
def test_files_that_fail_on_any_rank_are_counted(tmp_path):
    folder = make_folder(tmp_path, 2, clips=1, frames=(5, 6))
    for name in ("a", "b", "c"):  # they end in the middle, which only reading tells
        cut = write_clip(folder.source / f"{name}.mkv", 25)
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    job = folder.start("--gpus", "2")
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 1 and "3 of 4 files failed; see above" in said and said.count("files failed") == 1, said
    assert folder.damaged() == folder.missing() == folder.hidden() == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_job_with_a_word(tmp_path, name, code):
    folder = make_folder(tmp_path, 1, frames=(60, 90))
    job = folder.start("--gpus", "2")
    while not folder.hidden() and job.poll() is None:  # until the first result is in the making, however fast it goes
        time.sleep(0.02)
    workers = workers_of(job.pid)
    job.send_signal(getattr(signal, name))
    said = job.communicate(timeout=120)[1]
    assert job.returncode == code and "Traceback" not in said, said
    assert len(workers) == 2 and seconds_until_gone(workers) < 1 and folder.damaged() == [] and folder.hidden() == []


def test_the_parent_imports_no_torch():
    code = (
        "import sys, common.distributed.launcher, projects.video_diffusion_sr.start; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_ports_of_jobs_are_free_and_not_those_that_anybody_gets():
    ports = {launcher.free_port() for _ in range(20)}
    assert len(ports) > 1 and all(first <= port < stop for port in ports for first, stop in [launcher.PORTS])
