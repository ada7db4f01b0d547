"""Rows of a picture over threads of this process: the exchange of ranks without ranks."""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class ThreadRows:
    """The `RowExchange` of one of several threads, each with a block of rows."""

    shared = True

    def __init__(self, own: int, shares: list, barrier: threading.Barrier) -> None:
        self.own, self._shares, self._barrier = own, shares, barrier
        self.first, self.last = own == 0, own == len(shares) - 1

    def _everyone(self, value) -> list:
        self._shares[self.own] = value
        self._barrier.wait()
        values = list(self._shares)
        self._barrier.wait()
        return values

    def neighbours(self, x, above=True, below=True):
        rows = self._everyone((x[:, :, :1].clone(), x[:, :, -1:].clone()))
        return (
            None if self.first or not above else rows[self.own - 1][1],
            None if self.last or not below else rows[self.own + 1][0],
        )

    def gather(self, own: Tensor) -> Tensor:
        return torch.stack(self._everyone(own))

    def surroundings(self, x, part):
        return *self.neighbours(x), self.gather(part)

    def gather_pixels(self, x: Tensor) -> Tensor:
        return torch.cat(self._everyone(x), 1)


def in_blocks(work: Callable[[ThreadRows, slice], Tensor], heights: Sequence[int]) -> list[Tensor]:
    """work(exchange, rows of the block) of every block of so many rows, each in a thread of its own."""
    barrier, shares, results = threading.Barrier(len(heights)), [None] * len(heights), [None] * len(heights)

    def run(own: int) -> None:
        start = sum(heights[:own])
        try:
            with torch.no_grad():
                results[own] = work(ThreadRows(own, shares, barrier), slice(start, start + heights[own]))
        except BaseException as error:
            results[own] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(own,)) for own in range(len(heights))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results
