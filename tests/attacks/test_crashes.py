"""A decoder that ends its process in the middle of a file costs that file, and no other one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.crashes import MOST_IN_VAIN, History, survive_crashes
from tests.attacks.harness import ENVIRONMENT, make_folder
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork here")

# Python runs a module of this name at its start. The decoder of crash*.mp4 aborts at the fifth frame.
HOSTILE = """
import importlib.abc, importlib.machinery, os, signal, sys

class Hostile(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "data.media.video_reader":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            decode = module.VideoReader._decode

            def hostile(reader, *how):
                for number, frame in enumerate(decode(reader, *how)):
                    if reader.path.name.startswith("crash") and number == 5:
                        os.kill(os.getpid(), signal.SIGSEGV)
                    yield frame

            module.VideoReader._decode = hostile

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hostile())
"""


def hostile_run(tmp_path: Path, folder, *flags: str) -> tuple[int, str]:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "sitecustomize.py").write_text(HOSTILE)
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "hostile")}
    command = folder.command(*flags)
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
    return run.returncode, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--overwrite",), (), ("--no_overlap",)])
def test_a_decoder_that_crashes_costs_its_file(tmp_path, flags):
    folder = make_folder(tmp_path, 5, clips=5, frames=(9, 17))
    for clip in ("1", "3"):
        (folder.source / f"clip{clip}.mp4").rename(folder.source / f"crash{clip}.mp4")
        folder.frames.pop(f"clip{clip}.mp4")
    (folder.source / "broken.mp4").write_bytes(b"nothing")
    code, said = hostile_run(tmp_path, folder, *flags)
    assert code == 1 and "3 of 6 files failed" in said and "Traceback" not in said, said
    for clip in ("1", "3"):
        assert f"crash{clip}.mp4: the program crashed in the middle of it (SIGSEGV)" in said
        assert not (folder.output / f"crash{clip}.mp4").exists()
    assert said.count("broken.mp4: ") == 1, said
    assert folder.damaged() == folder.missing() == folder.hidden() == [], said


@pytest.mark.slow
def test_a_run_of_one_file_that_crashes_says_so(tmp_path):
    folder = make_folder(tmp_path, 6, clips=1)
    (folder.source / "clip0.mp4").rename(folder.source / "crash.mp4")
    code, said = hostile_run(tmp_path, folder)
    assert code == 1 and "crash.mp4: the program crashed in the middle of it (SIGSEGV)" in said, said
    assert folder.hidden() == [] and "1 of 1 files failed" in said


PROGRAM = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from common.crashes import survive_crashes

def run(history):
    {run}

sys.exit(survive_crashes(run))
"""


def ended(run: str) -> subprocess.CompletedProcess:
    program = PROGRAM.format(run=run.replace("\n", "\n    "))
    command = [sys.executable, "-c", program, str(ROOT)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_whatever_ends_the_child_ends_the_parent():
    for code in (0, 1, 2, 143):
        assert ended(f"return {code}").returncode == code
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
        assert ended(f"os.kill(os.getpid(), {number:d})").returncode == -number


def test_a_machine_that_crashes_with_every_file_is_left_alone():
    run = ended('print(history.attempt, flush=True); history.begun(f"{history.attempt}"); os.abort()')
    assert run.returncode == -signal.SIGABRT and run.stdout.split() == [str(n) for n in range(MOST_IN_VAIN)]


def test_signals_to_the_parent_reach_the_child():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        waits = f"signal.signal({number:d}, lambda *_: os._exit(9)); os.kill(os.getppid(), {number:d}); signal.pause()"
        assert ended(waits).returncode == 9


def test_what_a_crash_says_about_files(tmp_path):
    """One alone is at fault; of several each is tried by itself; what was finished stays so."""
    history = History(notes=os.memfd_create("test"))
    for name, good in (("a", True), ("b", False)):
        history.begun(name)
        history.finished(name, good)
    for name in ("c", "d"):
        history.begun(name)
    assert history.crashed("SIGSEGV") == ["c", "d"] and history.attempt == 1
    assert history.done == {"a": True, "b": False} and history.suspects == {"c", "d"} and history.at_fault == {}
    history.begun("c")
    history.finished("c", True)
    history.begun("d")
    assert history.crashed("SIGBUS") == ["d"]
    assert history.at_fault == {"d": "SIGBUS"} and history.suspects == set() and history.done["c"]
    os.close(history.notes)


def test_a_process_that_has_begun_is_not_forked():
    """As in a program that uses this one: its threads would be missing in the child."""
    import torch

    assert survive_crashes(lambda history: os.getpid()) == os.getpid() and torch
