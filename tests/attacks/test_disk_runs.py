"""The disk of the results fills up, becomes read-only or goes away while the real program works.

Each time: a line for each file that has no result, no traceback, and the same command makes the bytes of an undisturbed
run once the disk is as it should be.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.attacks.attack import SETTINGS, Attack, has_traceback, new_attack
from tests.attacks.test_runs import LIMIT_S

pytestmark = [pytest.mark.slow, pytest.mark.parallel, pytest.mark.timeout(900)]


def called(*words: object) -> bool:
    return subprocess.run([str(word) for word in words], check=False, capture_output=True).returncode == 0


def small_disk(folder: Path, size: str, *more: str) -> None:
    """A disk in memory in place of a folder's content, or its new size."""
    if not called("mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *more)), "none", folder):
        pytest.skip("needs the right to mount")


@pytest.fixture(params=SETTINGS)
def attack(request, tmp_path):
    made = new_attack(tmp_path, request.param)
    yield made
    called("chattr", "-i", made.folder.output)
    while called("umount", "-l", made.folder.output):
        pass


def disturbed(attack: Attack, disturb) -> str:
    """A run that loses its disk at some moment; what it says."""
    run = attack.start()
    until = time.monotonic() + attack.draws.uniform(0.4, 0.95) * attack.seconds
    while run.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    disturb()
    said = run.communicate(timeout=LIMIT_S)[1]
    assert not has_traceback(said), said
    assert run.returncode in (0, 1, 2), (run.returncode, said)
    attack.seen[f"exit code {run.returncode}"] += 1
    print(said)
    return said


def says_what_is_missing(attack: Attack, said: str) -> None:
    for name in attack.folder.missing():
        assert f"{name}: cannot be " in said or f"{name} -> " in said, said  # the latter went with its disk
    assert attack.folder.damaged() == []


@pytest.mark.parametrize("part", [0.2, 0.6, 1.1, 1.6])
def test_a_disk_that_fills_up(attack, part):
    """part: of the bytes of all results."""
    needed = sum(map(len, attack.whole.values()))
    small_disk(attack.folder.output, f"{int(part * needed)}")
    run = attack.start()
    said = run.communicate(timeout=LIMIT_S)[1]
    print(said)
    assert run.returncode == bool(attack.folder.missing()), said
    assert not has_traceback(said) and ("No space left" in said) >= bool(attack.folder.missing()), said
    says_what_is_missing(attack, said)
    assert attack.unfinished() == [], said
    assert called("mount", "-o", "remount,size=64m", attack.folder.output)
    attack.run_through()


def test_a_disk_that_becomes_read_only(attack):
    if not called("chattr", "+i", attack.folder.output):
        pytest.skip("needs the right to make a folder immutable")
    called("chattr", "-i", attack.folder.output)
    for _ in range(2):
        said = disturbed(attack, lambda: called("chattr", "+i", attack.folder.output))
        says_what_is_missing(attack, said)
        called("chattr", "-i", attack.folder.output)
    attack.run_through()


def test_a_disk_that_is_read_only_from_the_start(attack):
    small_disk(attack.folder.output, "1m", "ro")
    run = attack.start()
    said = run.communicate(timeout=LIMIT_S)[1]
    print(said)
    assert run.returncode in (1, 2) and not has_traceback(said) and "ead-only" in said, said
    says_what_is_missing(attack, said)


def test_a_folder_that_is_deleted(attack):
    said = disturbed(attack, lambda: shutil.rmtree(attack.folder.output, ignore_errors=True))
    says_what_is_missing(attack, said)
    attack.run_through()


def test_a_disk_that_goes_away(attack):
    """What was mounted there is not; the folder below it is empty."""
    small_disk(attack.folder.output, "64m")
    said = disturbed(attack, lambda: called("umount", "-l", attack.folder.output))
    says_what_is_missing(attack, said)
    attack.run_through()
