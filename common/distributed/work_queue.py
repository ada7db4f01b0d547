"""A queue of files for groups of ranks: no group idles while files are left, and no file is lost or processed twice.

The queue is a counter in the store that all ranks share. Every rank has the same ordered list. The leader of a group
takes the next number and sends it to its group. Begun and finished files are also written to a journal beside the
results, with one file per group, because the store is lost at a restart. After a restart, finished files are skipped
and others are processed again. Files that were begun before come last, so that a file that crashes the job every time
does not block the others.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

import torch

from common.claim import Claim, TargetInUseError
from common.distributed.collectives import Group
from common.distributed.job import journal_folder, remove_dead_journals
from common.logger import get_logger

logger = get_logger(__name__)

Item = TypeVar("Item")

DRAWN, SERVED, AGREED = "queue/drawn", "queue/served", "queue/agreed"
POLL_S = 0.2


def queued_items(
    group: Group,
    items: Sequence[Item],
    *,
    cost: Callable[[Item], float],
    name: Callable[[Item], str] = str,
    journal: Path | None = None,
) -> Iterator[Item]:
    """Yield the items for this rank's group. Every rank must iterate to the end.

    An item counts as finished when the next one is requested. Call this once per job. After its last item, a group
    waits for the other groups as long as they report progress.

    Args:
        items: the same items on every rank, in any order.
        cost: the duration of an item in any unit; if there are several groups, the longest items come first.
        name: a unique name for each item, the same after a restart.
        journal: a folder that all machines see, usually that of the results. None: a restart processes all items again.
    Raises:
        ValueError: the ranks have different items.
    """
    process = group.process
    record = None if journal is None else Journal(Path(journal), group)
    _agree(group, sorted(name(item) for item in items))
    done, begun = record.open() if record else (set(), Counter())
    several = process.world > group.size

    def place(item: Item) -> tuple[int, float]:
        return begun[name(item)], -cost(item) if several else 0.0

    waiting = sorted((item for item in items if name(item) not in done), key=place)
    if len(waiting) < len(items) and process.is_leader:
        logger.info("%d of %d files were finished before the restart", len(items) - len(waiting), len(items))
    for number in _numbers(group):
        if number >= len(waiting):
            break
        item = waiting[number]
        process.alive(name(item))
        if record:
            record.note("begun", name(item))
        yield item
        if record:
            record.note("done", name(item))
    _wait_for_others(group)
    if record:
        record.close()


def _agree(group: Group, names: list[str]) -> None:
    """Raise ValueError unless all ranks have the same names."""
    if len(set(names)) < len(names):
        raise ValueError(f"several files have one name: {', '.join(n for n, k in Counter(names).items() if k > 1)}")
    if group.process.store is None:
        return
    seen = f"{len(names)} files, {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}"
    assert group.process.store is not None, "a job of several processes has a store"
    first = group.process.store.compare_set(AGREED, "", seen).decode()
    if first != seen:
        raise ValueError(
            f"rank {group.process.rank} sees {seen}, another rank {first}: every machine must see the same folder, "
            "and nothing may be put into it while the job starts"
        )


def _numbers(group: Group) -> Iterator[int]:
    """Yield this group's numbers in the queue, the same on all its ranks, without end."""
    store = group.process.store
    if store is None:
        yield from count()
        return
    while True:
        number = torch.tensor(store.add(DRAWN, 1) - 1 if group.is_leader else 0)
        yield int(group.broadcast(number, 0, "next file")) if group.size > 1 else int(number)


def _wait_for_others(group: Group) -> None:
    """Wait until all groups have found the queue empty. A rank that hangs is ended by its watchdog (`watchdog.py`)."""
    process = group.process
    if process.store is None:
        return
    process.store.add(SERVED, 1)
    while process.store.add(SERVED, 0) < process.world:
        process.alive("waiting for the other groups")
        time.sleep(POLL_S)


class Journal:
    """Records on disk which items were begun and finished, with one file per group."""

    def __init__(self, output: Path, group: Group) -> None:
        self.output, self.folder, self.group = output, journal_folder(output), group
        self.file = self.folder / f"{group.process.rank:05d}.jsonl"
        self.claim: Claim | None = None  # shows other jobs that this one is running

    def open(self) -> tuple[set[str], Counter[str]]:
        """Read which names were finished before this restart, and how often each was begun. All ranks must call it."""
        process = self.group.process
        if process.is_leader:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_dead_journals(self.output, self.folder)
            with suppress(TargetInUseError):  # the previous attempt is still ending
                self.claim = Claim(self.folder)
            if process.attempt == 0:  # the journal of another job, which will not be continued
                for file in self.folder.glob("*.jsonl"):
                    file.unlink()
        process.barrier()
        done: set[str] = set()
        begun: Counter[str] = Counter()
        for file in self.folder.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                try:
                    event, name = json.loads(line)
                except ValueError:  # an incomplete line, written when the job ended
                    continue
                if event == "done":
                    done.add(name)
                else:
                    begun[name] += 1
        process.barrier()
        return done, begun

    def note(self, event: str, name: str) -> None:
        """Append "begun" or "done" and a name, on the group's leader."""
        if self.group.is_leader:
            with self.file.open("a") as file:
                file.write(json.dumps([event, name]) + "\n")

    def close(self) -> None:
        """Remove the journal, when all items are finished."""
        self.group.process.barrier()
        if self.group.process.is_leader:
            for file in self.folder.glob("*.jsonl"):
                file.unlink()
            with suppress(OSError):  # it holds files for a restart, see `job.mark_ended`
                self.folder.rmdir()
            if self.claim is not None:
                self.claim.release()
