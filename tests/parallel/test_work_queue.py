"""Files for groups of ranks: each once, longest first, nobody idle, the same for all ranks of a group."""

import time
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessRaisedException

from common.distributed.parallel import Parallel
from common.distributed.process import Process, process_group
from tests.parallel.ranks import run_ranks

pytestmark = pytest.mark.parallel

COSTS = {"short1": 1, "short2": 1.5, "long": 30, "short3": 2, "short4": 2.5, "short5": 3}


def begun_files(folder: Path) -> set[str]:
    return {path.name.split()[0] for path in folder.iterdir()}


def test_every_file_once_and_the_longest_first(tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()

    def work(process: Process) -> None:
        parallel = Parallel(process, sp_size=2)
        got = []
        for name in parallel.files(sorted(COSTS), cost=COSTS.get, journal=tmp_path / "results"):
            got.append(name)
            (begun / f"{name} {process.rank}").touch()
            deadline = time.monotonic() + 50
            while name == "long" and len(begun_files(begun)) < len(COSTS) and time.monotonic() < deadline:
                time.sleep(0.02)  # longer than all others together, however slow the machine is
        (tmp_path / str(process.rank)).write_text(" ".join(got))

    run_ranks(4, work)
    first, same_as_first, second, same_as_second = ((tmp_path / str(rank)).read_text().split() for rank in range(4))
    assert first == same_as_first and second == same_as_second
    assert sorted(first + second) == sorted(COSTS)
    with_long, other = (first, second) if "long" in first else (second, first)
    assert with_long == ["long"] and other == sorted(other, key=COSTS.get, reverse=True)
    assert list((tmp_path / "results").iterdir()) == [], "no journal and no lock is left"


def test_ranks_that_see_different_files_are_refused():
    def work(process: Process) -> None:
        list(Parallel(process).files(["a", f"b{process.rank}"], cost=len))

    with pytest.raises(ProcessRaisedException, match="must see the same folder"):
        run_ranks(2, work)


def test_alone_the_order_of_the_caller_is_kept(tmp_path):
    with process_group("cpu") as process:
        items = Parallel(process).files(["b", "a", "c"], cost=ord, journal=tmp_path)
        assert list(items) == ["b", "a", "c"]
    with process_group("cpu") as process, pytest.raises(ValueError, match="one name: a"):
        list(Parallel(process).files(["a", "a"], cost=ord))
