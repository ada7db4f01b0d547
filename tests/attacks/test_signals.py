"""A process that is asked to end ends soon and with one word, however often and wherever it is asked."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

AT_EXIT = """
import atexit, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from common.signals import exit_code, interrupted_by_signals

def last():
    os.kill(os.getpid(), {number})
    time.sleep(0.2)
    print("the end", flush=True)

atexit.register(last)
try:
    with interrupted_by_signals():
        with interrupted_by_signals():
            os.kill(os.getpid(), {number})
except KeyboardInterrupt as error:
    sys.exit(exit_code(error))
"""

WAITING = """
import sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from common.distributed.outcomes import _wait_for
from common.signals import exit_code, interrupted_by_signals

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
try:
    with interrupted_by_signals():
        print("ready", flush=True)
        _wait_for(["never"], store, {timeout_s})
except KeyboardInterrupt as error:
    sys.exit(exit_code(error))
except dist.DistStoreError:
    sys.exit(7)
"""


def started(program: str) -> subprocess.Popen:
    command = [sys.executable, "-c", program, str(ROOT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_same_wish_once_more_does_not_disturb_the_end(name):
    number = getattr(signal, name)
    run = started(AT_EXIT.format(number=int(number)))
    said, complaint = run.communicate(timeout=60)
    assert (run.returncode, said, complaint) == (128 + number, "the end\n", "")


def test_a_rank_that_waits_for_another_one_hears_a_signal():
    run = started(WAITING.format(timeout_s=600))
    assert run.stdout.readline() == "ready\n"
    time.sleep(0.2)
    begun = time.monotonic()
    run.terminate()
    assert run.wait(60) == 143 and time.monotonic() - begun < 30
    run.communicate()


def test_a_rank_does_not_wait_for_ever():
    run = started(WAITING.format(timeout_s=1))
    assert run.wait(120) == 7, run.communicate()
    run.communicate()
