"""Pairs of runs, kills and signals on the real program. Slow: every start imports PyTorch.

`SEEDVR_ATTACK_SEED` and `SEEDVR_ATTACK_ROUNDS` choose other moments and more of them.
"""

import os
import random
import signal
import subprocess
import time

import pytest

from common.distributed.launcher import free_port
from tests.attacks.harness import kill, make_folder, seconds_until_gone, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.parallel]

SEED = int(os.environ.get("SEEDVR_ATTACK_SEED", "0"))
ROUNDS = range(int(os.environ.get("SEEDVR_ATTACK_ROUNDS", "2")))
LIMIT_S = 240.0


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize(("ranks", "flags"), [(0, ()), (0, ("--skip_existing",)), (2, ("--overwrite", "--compare"))])
def test_two_runs_in_one_folder(tmp_path, ranks, flags, number):
    draws = random.Random(f"{SEED} pair {number} {ranks}")
    folder = make_folder(tmp_path, draws.randrange(1000))
    first = folder.start(*flags, ranks=ranks, port=free_port())
    time.sleep(draws.uniform(0, 2))
    second = folder.start(*flags, ranks=ranks, port=free_port())
    said = [run.communicate(timeout=LIMIT_S)[1] for run in (first, second)]
    assert folder.damaged() == [] and folder.missing() == [] and folder.hidden() == [], said
    codes = {first.returncode, second.returncode}
    if "--skip_existing" in flags:
        assert codes == {0}, said
    if codes != {0}:
        assert any("is being made by process" in words or "exists" in words for words in said)


@pytest.mark.parametrize("number", ROUNDS)
def test_a_killed_run_starts_again_at_once(tmp_path, number):
    draws = random.Random(f"{SEED} kill {number}")
    folder = make_folder(tmp_path, draws.randrange(1000))
    run = folder.start()
    time.sleep(draws.uniform(2, 8))
    kill(run.pid)
    again = folder.start("--skip_existing")
    run.communicate()
    said = again.communicate(timeout=LIMIT_S)[1]
    assert again.returncode == 0, said
    assert folder.damaged() == [] and folder.missing() == [] and folder.hidden() == []


@pytest.mark.parametrize("number", ROUNDS)
def test_workers_end_with_their_agent(tmp_path, number):
    draws = random.Random(f"{SEED} agent {number}")
    folder, port = make_folder(tmp_path, draws.randrange(1000)), free_port()
    run = folder.start("--sp_size", "2", ranks=2, port=port)
    deadline = time.monotonic() + 60
    while not (workers := workers_of(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(draws.uniform(0.5, 8))
    workers = workers_of(run.pid)
    kill(run.pid)
    again = folder.start("--skip_existing", "--sp_size", "2", ranks=2, port=port)
    assert seconds_until_gone(workers) < 6
    run.communicate()
    said = again.communicate(timeout=LIMIT_S)[1]
    assert again.returncode == 0, said
    assert folder.damaged() == [] and folder.missing() == [] and folder.hidden() == []


def wait_or_end(run, seconds):
    """The exit code of a run that ends within so many seconds; None: it goes on."""
    try:
        return run.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_run_with_a_word(tmp_path, name, code):
    draws = random.Random(f"{SEED} {name}")
    folder = make_folder(tmp_path, 1, frames=(60, 90))
    moment = draws.uniform(0.5, 8)
    while (run := folder.start("--overwrite")) and wait_or_end(run, moment) is not None:
        moment /= 2  # a fast machine had finished
    run.send_signal(getattr(signal, name))
    said = run.communicate(timeout=LIMIT_S)[1]
    assert run.returncode == code, said
    assert "Traceback" not in said and (name in said or "interrupted" in said)
    assert folder.damaged() == [] and folder.hidden() == []
