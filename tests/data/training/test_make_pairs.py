"""The processes that make pairs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# Each process that imports this program waits for the others: it ends only if no start waits for another's imports.
PROGRAM = """
import os, sys, time
from pathlib import Path

photograph, here, workers = sys.argv[1], Path(sys.argv[2]), 3
if __name__ == "__mp_main__":
    (here / f"worker_{os.getpid()}").touch()
    deadline = time.monotonic() + 20
    while len(list(here.glob("worker_*"))) < workers:
        if time.monotonic() > deadline:
            sys.exit("the other processes did not start")
        time.sleep(0.05)

if __name__ == "__main__":
    from data.degradation.pipeline import build_degradation
    from data.training.index import Index, Source
    from data.training.make_pairs import PairSet, make_sets
    from data.training.pair_sampler import PairSampler
    from data.training.sampling import ClipShape
    from tests.data.training.conftest import recipe

    small = [Source("x" * 200 + str(n), False, 1, 8, 8) for n in range(2000)]  # more than a pipe holds
    index = Index((Source(photograph, False, 1, 144, 160), *small))
    shape, degradation = ClipShape(1, 32, 32), build_degradation(recipe("image"))
    sets = [PairSet(shape, 4, 0), PairSet(shape, 3, 1)]
    made = make_sets(PairSampler(index, [shape], degradation, degradation), sets, workers)
    print([len(pairs.hq) for pairs in made])
"""


def test_processes_start_beside_one_another_whatever_the_size_of_the_index(material, tmp_path):
    """Found on a machine whose disk was cold: 14 processes started one after another, each after the last's imports."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, material / "photo0.png", tmp_path]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[4, 3]\n"), done.stderr
