"""One owner for a file in the making, dead owners replaced, nothing left, permissions as the user's mask says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common import claim as claims
from common.atomic import atomic_write
from common.checkpoint import save_safetensors
from common.claim import Claim, TargetInUseError, remove_leftovers
from common.owner import Owner, process_started, this_process
from data.media import MediaError
from data.media.media_writer import MediaWriter
from tests.conftest import ROOT

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from common.claim import Claim
claim = Claim(Path(sys.argv[1]))
claim.new_file(".mp4").write_bytes(b"half")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that makes `a.mp4`."""
    target = tmp_path / "a.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(root=str(ROOT)), str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield target, process
    process.kill()
    process.wait()


def test_a_live_owner_is_named_and_a_killed_one_replaced(holder):
    target, process = holder
    with pytest.raises(TargetInUseError, match=rf"a\.mp4: .* being made by process {process.pid} on "):
        Claim(target, patience_s=0.2)
    assert remove_leftovers(target.parent) == 0 and len(list(target.parent.iterdir())) == 2
    process.kill()
    process.wait()
    Claim(target, patience_s=0.0).release()
    assert list(target.parent.iterdir()) == [], "the dead owner's unfinished file is gone"


def test_a_sweep_removes_what_the_dead_left(holder):
    target, process = holder
    process.kill()
    process.wait()
    assert remove_leftovers(target.parent) == 1 and list(target.parent.iterdir()) == []


def test_without_locks_the_record_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "fcntl", None)
    monkeypatch.setattr(claims, "SILENCE_S", 0.5)
    monkeypatch.setattr(claims, "TOUCH_S", 0.1)
    target = tmp_path / "a.mp4"
    lock = tmp_path / f"{claims.PREFIX}{claims.name_digest('a.mp4')}.lock"
    parent = Owner(this_process().host, this_process().machine, os.getppid(), process_started(os.getppid()))
    lock.write_bytes(parent.to_json())
    with pytest.raises(TargetInUseError, match=str(os.getppid())):
        Claim(target, patience_s=0.0)
    reused = Owner(parent.host, parent.machine, parent.pid, "12")  # the number is that of another process now
    lock.write_bytes(reused.to_json())
    Claim(target, patience_s=1.0).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alive", [True, False])
def test_an_owner_on_another_machine_is_watched(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(claims, "SILENCE_S", 0.6)
    monkeypatch.setattr(claims, "TOUCH_S", 0.2)
    lock = tmp_path / f"{claims.PREFIX}{claims.name_digest('a.mp4')}.lock"
    lock.write_bytes(Owner("far", "far 1", 1, "1").to_json())
    if alive:
        monkeypatch.setattr(claims.time, "sleep", lambda s: (lock.touch(), time_sleep(s)))
        with pytest.raises(TargetInUseError, match="process 1 on far"):
            Claim(tmp_path / "a.mp4", patience_s=0.0)
    else:
        Claim(tmp_path / "a.mp4", patience_s=0.0).release()


time_sleep = time.sleep


@pytest.mark.parametrize("length", [245, 255])
def test_names_as_long_as_they_can_be(tmp_path, length):
    target = tmp_path / ("x" * (length - 4) + ".mp4")
    with atomic_write(target) as part:
        part.write_bytes(b"all")
    assert target.read_bytes() == b"all" and list(tmp_path.iterdir()) == [target]


def test_permissions_follow_the_mask(tmp_path):
    before = os.umask(0o027)
    try:
        save_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_a_folder_with_the_name_of_the_result(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"^a\.mp4: .* is a folder"), atomic_write(tmp_path / "a.mp4"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_a_writer_that_fails_before_it_is_entered_leaves_nothing(tmp_path):
    class Broken(MediaWriter):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            raise MediaError("no")

        def _stored(self, pixels): ...

        def _write_one(self, planes, time) -> None: ...

        def _finish(self) -> None: ...

        def _release(self) -> None: ...

    with pytest.raises(MediaError):
        Broken(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from common.claim import Claim
from common.parent import end_with_parent
from common.signals import interrupted_by_signals
end_with_parent()
try:
    with interrupted_by_signals():
        claim = Claim(Path({target!r}))
        Path({target!r} + ".ready").touch()
        time.sleep(60)
except KeyboardInterrupt as error:
    print(error, file=sys.stderr)
    claim.release()
"""


def test_a_process_ends_with_its_launcher_and_tidies_up(tmp_path):
    target = tmp_path / "a.mp4"
    child = CHILD.format(root=str(ROOT), target=str(target))
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child=child)], stdout=subprocess.PIPE, text=True)
    number = int(parent.stdout.readline())
    wait_for(lambda: Path(f"{target}.ready").exists())
    parent.kill()
    parent.wait()
    wait_for(lambda: process_started(number) == "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4.ready"]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_end_before_the_program_is_imported(tmp_path, name, code):
    """The program's own start, with an import that takes long in place of the program."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import sys, types\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from projects.video_diffusion_sr.start import start\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'projects.video_diffusion_sr.cli':\n"
        "            import time; print('importing', flush=True); time.sleep(60)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.exit(start('seedvr2_tiny', ['--video_path', 'a', '--output_dir', 'b']))\n"
    )
    process = subprocess.Popen([sys.executable, str(slow)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(getattr(signal, name))
    assert name in process.communicate(timeout=60)[1] and process.returncode == code


def test_help_and_wrong_flags_do_not_import_torch():
    script = (
        "import sys; sys.modules['torch'] = None; import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    for flags, code in ((["--help"], 0), (["--no_such_flag"], 2)):
        path = str(ROOT / "projects" / "inference_seedvr2_3b.py")
        run = subprocess.run([sys.executable, "-c", script, path, *flags], capture_output=True, check=False)
        assert run.returncode == code


def test_a_job_is_told_from_another_on_the_same_port(monkeypatch):
    from common.distributed import job

    monkeypatch.setattr(job.os, "getppid", lambda: 10**8)
    one = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "a", "MASTER_PORT": "1", "GROUP_WORLD_SIZE": "1"}
    first = job.job_id(one)
    monkeypatch.setattr(job.os, "getppid", lambda: 10**8 + 1)
    assert first != job.job_id(one)
    several = one | {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "7"}
    assert job.job_id(several) == job.job_id(several | {"MASTER_PORT": "2"}) != job.job_id(one)


def test_an_ended_job_is_not_tried_again(tmp_path):
    from common.distributed import job

    job.mark_ended(tmp_path)
    environment = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "2", "WORLD_SIZE": "2"}
    assert job.has_ended(tmp_path, environment | {"RANK": "0"})
    assert not job.has_ended(tmp_path, environment | {"TORCHELASTIC_RESTART_COUNT": "0"}), "another job"
    last = environment | {"TORCHELASTIC_RESTART_COUNT": "2"}
    assert job.has_ended(tmp_path, last | {"RANK": "0"}) and job.has_ended(tmp_path, last | {"RANK": "1"})
    assert list(tmp_path.iterdir()) == []


def test_journals_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    from common.distributed import job

    dead, alive = tmp_path / ".queue-dead", tmp_path / ".queue-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "00000.jsonl").write_text(json.dumps(["done", "a"]))
    held = Claim(alive)
    job.remove_dead_journals(tmp_path, tmp_path / ".queue-own")
    assert not dead.exists() and alive.exists()
    held.release()


def wait_for(condition, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
