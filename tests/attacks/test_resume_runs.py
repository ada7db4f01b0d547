"""SIGKILL at random moments of a long clip and of a folder, on the real program, until it is through.

`SEEDVR_ATTACK_SEED` and `SEEDVR_ATTACK_ROUNDS` choose other moments and more of them.
"""

import random
import time
from pathlib import Path

import pytest

from tests.attacks.harness import Folder, free_port, kill, make_folder, workers_of
from tests.attacks.test_runs import LIMIT_S, ROUNDS, SEED

pytestmark = [pytest.mark.slow, pytest.mark.parallel]

FLAGS = ("--window", "13", "--skip_existing")  # a segment of a hundred frames, whose beginning is not computed again
MOST_KILLS = 12


def bytes_of(folder: Folder) -> dict[str, bytes]:
    return {name: (folder.output / name).read_bytes() for name in folder.frames}


def kept(folder: Folder) -> int:
    """Segments that lie beside the results."""
    return len(list(Path(folder.output).glob(".*.kept/*.mp4")))


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize(("clips", "ranks"), [(1, 0), (1, 2), (3, 0)])
def test_killed_again_and_again_gives_the_same_bytes(tmp_path, clips, ranks, number):
    draws = random.Random(f"{SEED} resume {number} {clips} {ranks}")
    folder = make_folder(tmp_path, draws.randrange(1000), clips, frames=(330, 420))
    flags = (*FLAGS, *(("--sp_size", str(ranks)) if ranks else ()))
    run = folder.start(*flags, ranks=ranks, port=free_port())
    said = run.communicate(timeout=LIMIT_S)[1]
    assert run.returncode == 0 and folder.damaged() == [], said
    undisturbed = bytes_of(folder)
    for name in folder.frames:
        (folder.output / name).unlink()
    kills, went_on = 0, 0
    while kills < MOST_KILLS:
        run = folder.start(*flags, ranks=ranks, port=free_port())
        waited, before = time.monotonic() + draws.uniform(6, 25), kept(folder)
        went_on += before > 0
        while run.poll() is None and time.monotonic() < waited:
            time.sleep(0.01)
        if run.poll() is not None:
            break
        for process in [run.pid, *workers_of(run.pid)]:
            kill(process)
        run.communicate()
        kills += 1
    if run.returncode != 0:
        run = folder.start(*flags, ranks=ranks, port=free_port())
        said = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 0, said
    assert bytes_of(folder) == undisturbed and folder.hidden() == []
    print(f"{kills} kills, {went_on} runs found segments to go on behind")
