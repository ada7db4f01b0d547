"""Makes ranks that share a clip agree: an error of one rank is raised on all of them, at the same point.

Ranks communicate through the job's store and not through collective calls, which would not work after an error of one
rank in the middle of its work.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from common.distributed.collectives import Group

MOMENT_S = 0.5  # duration of one wait; signals are handled between waits


class Outcomes:
    """Exchanges outcomes within one group. All its ranks must make the same number of calls."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.count = 0

    def exchange(self, outcome: str) -> list[str]:
        """Wait for the outcomes of all ranks. Returns them in the order of the ranks."""
        group, process = self.group, self.group.process
        if group.size == 1:
            return [outcome]
        assert process.store is not None, "a job of several processes has a store"
        keys = [self._key(self.count, number) for number in range(group.size)]
        process.store.set(keys[group.rank], outcome)
        with process.waiting("what the other ranks of this clip say"):
            _wait_for(keys, process.store, process.timeout_s)
        outcomes = [process.store.get(key).decode() for key in keys]
        if self.count:  # all ranks have answered now, so all have read the previous answers
            process.store.delete_key(self._key(self.count - 1, group.rank))
        self.count += 1
        return outcomes

    @contextmanager
    def same_for_all(self, *expected: type[Exception], rebuild: Callable[[str, str], Exception]) -> Iterator[None]:
        """A context at whose end all ranks of the group synchronise: an error of one rank is raised on all of them.

        Args:
            expected: classes of errors after which the ranks can continue together. Other errors are raised at once and
                end the job.
            rebuild: a function (name of the error's class, message) -> the error to raise, also on ranks without error.

        A group of one raises its errors unchanged.
        """
        raised = None
        try:
            yield
        except expected as error:
            if self.group.size == 1:
                raise
            raised = error
        if self.group.size == 1:
            return
        outcome = None if raised is None else (type(raised).__name__, str(raised))
        failures = [found for found in map(json.loads, self.exchange(json.dumps(outcome))) if found]
        if outcome is not None:
            raise rebuild(*outcome) from raised
        if failures:
            raise rebuild(*failures[0])

    def _key(self, count: int, number: int) -> str:
        group = self.group
        return f"outcome/{group.process.rank - group.rank}/{count}/{number}"


def _wait_for(keys: Sequence[str], store: dist.Store, timeout_s: float) -> None:
    """Wait for keys of a store in short intervals, since Python handles no signals while the store waits."""
    deadline = time.monotonic() + timeout_s
    while not store.check(list(keys)):
        begun = time.monotonic()
        try:
            store.wait(list(keys), timedelta(seconds=MOMENT_S))
        except dist.DistStoreError:
            if begun > deadline or time.monotonic() - begun < MOMENT_S / 2:  # out of time, or another error
                raise
