"""What the threads that upload weights do when one of them fails."""

import threading

import pytest
import torch

from common.upload import THREADS, in_threads

NAMES = 100 * THREADS


def test_after_an_error_nothing_new_is_begun():
    """Ctrl-C must not wait for a large file on a slow disk."""
    begun, failed = [], threading.Event()

    def make(name: str, upload: object) -> torch.Tensor:
        begun.append(name)
        if name == "0":
            failed.set()
            raise ValueError("damaged")
        failed.wait(5)
        threading.Event().wait(0.05)
        return torch.zeros(1)

    with pytest.raises(ValueError, match="damaged"):
        in_threads(make, map(str, range(NAMES)), torch.device("cpu"))
    assert len(begun) < NAMES  # all of them would take seconds, enough for any machine to cancel some


def test_results_come_in_the_order_of_the_names():
    names = [str(n) for n in range(50)]
    made = in_threads(lambda name, upload: torch.tensor(int(name)), names, torch.device("cpu"))
    assert list(made) == names and [int(x) for x in made.values()] == list(range(50))
