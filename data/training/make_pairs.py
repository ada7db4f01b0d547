"""Makes sets of training pairs with several processes, for data sets that fit into memory."""

import pickle
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from data.degradation.pipeline import build_degradation
from data.training.index import build_index
from data.training.pair_sampler import Pair, PairSampler, SamplerConfig
from data.training.sampling import ClipShape, slot_generator

POLL_SECONDS = 5.0


@dataclass(frozen=True)
class PairSet:
    """A set of `count` pairs of one shape. Pair i depends only on (seed, i), not on the process that makes it."""

    shape: ClipShape
    count: int
    seed: int


@dataclass(frozen=True)
class Pairs:
    """Stacked pairs: `hq` uint8 [N, T, H, W, 3], `lq` uint8 [N, T, H/s, W/s, 3], and the origin of each pair."""

    hq: np.ndarray
    lq: np.ndarray
    identities: list[str]

    def save(self, folder: str | Path) -> Path:
        """Write one shard with `hq` and `lq`, for `ShardReader` and `ShardDataset`. Returns the path of the index."""
        import torch  # imported here, so that worker processes start without it

        from data.training.latent_shards import ShardWriter

        writer = ShardWriter(folder)
        stacked = {"hq": torch.from_numpy(self.hq), "lq": torch.from_numpy(self.lq)}
        writer.add_stack(stacked, self.identities, size=int(np.prod(self.hq.shape[1:4])))
        return writer.close()


def make_pairs(
    paths: Sequence[str | Path],
    count: int,
    shape: ClipShape,
    seed: int,
    workers: int,
    degradation: Mapping[str, Any],
    config: SamplerConfig | None = None,
) -> Pairs:
    """Make one set.

    Args:
        paths: folders of videos and images.
        count, shape, seed: see `PairSet`.
        workers: see `make_sets`.
        degradation: one recipe (`configs_degradation/*.yaml` as a mapping), for clips and for single frames.
        config: how pairs are cropped.
    """
    recipe = build_degradation(degradation)
    sampler = PairSampler(build_index(paths), [shape], recipe, recipe, config)
    return next(make_sets(sampler, [PairSet(shape, count, seed)], workers))


def make_sets(sampler: PairSampler, sets: Sequence[PairSet], workers: int) -> Iterator[Pairs]:
    """Yield the sets in order, each when it is complete, while worker processes make the next ones.

    Args:
        sampler: made for the shapes of all sets.
        workers: number of worker processes; 0: this process makes the pairs. Workers are spawned, so the calling
            program needs a `__main__` guard.
    """
    pairs = _in_processes(sampler, sets, workers) if workers else _here(sampler, sets)
    begun: dict[int, Pairs] = {}
    missing = [chosen.count for chosen in sets]
    wanted = 0
    for number, i, pair in pairs:
        assert pair.lq is not None, "sets of pairs are degraded"
        if number not in begun:
            hq, lq = (np.empty((sets[number].count, *x.shape), np.uint8) for x in (pair.hq, pair.lq))
            begun[number] = Pairs(hq, lq, [""] * sets[number].count)
        made = begun[number]
        made.hq[i], made.lq[i] = pair.hq, pair.lq
        made.identities[i] = f"{pair.identity} seed={sets[number].seed} pair={i}"
        missing[number] -= 1
        while wanted < len(sets) and missing[wanted] == 0:
            yield begun.pop(wanted)
            wanted += 1


Task = tuple[int, int]  # number of the set, pair in it
Made = Iterator[tuple[int, int, Pair]]


def _tasks_of(sets: Sequence[PairSet]) -> list[Task]:
    return [(number, i) for number, chosen in enumerate(sets) for i in range(chosen.count)]


def _draw(sampler: PairSampler, sets: Sequence[PairSet], task: Task) -> Pair:
    number, i = task
    return sampler.draw(sets[number].shape, slot_generator(sets[number].seed, 0, i))


def _here(sampler: PairSampler, sets: Sequence[PairSet]) -> Made:
    for task in _tasks_of(sets):
        yield *task, _draw(sampler, sets, task)


def _in_processes(sampler: PairSampler, sets: Sequence[PairSet], workers: int) -> Made:
    """A bounded queue instead of a pool, which would collect pairs without limit while a set is written to a disk."""
    context = get_context("spawn")
    results, next_task = context.Queue(maxsize=4 * workers), context.Value("q", 0)
    with TemporaryDirectory() as folder:
        # What is large goes through a file. As an argument it would fill the pipe to a new process, and the next one
        # would start only when this one has imported the program and reads its arguments: seconds for each.
        given = Path(folder) / "given"
        given.write_bytes(pickle.dumps((sampler, sets)))
        arguments = (given, next_task, results)
        processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
        for process in processes:
            process.start()
        try:
            for _ in _tasks_of(sets):
                task, pair = _next(results.get, processes)
                yield *task, pair
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _next(get: Callable[..., Any], processes: Sequence[BaseProcess]) -> tuple[Task, Pair]:
    while True:
        try:
            task, pair = get(timeout=POLL_SECONDS)
        except queue.Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("a worker process died; the machine may be short of memory.") from None
            continue
        if isinstance(pair, Exception):
            raise pair
        return task, pair


def _work(given: Path, next_task: Any, results: Any) -> None:
    cv2.setNumThreads(1)
    sampler, sets = pickle.loads(given.read_bytes())
    tasks = _tasks_of(sets)
    while True:
        with next_task.get_lock():
            place = next_task.value
            next_task.value += 1
        if place >= len(tasks):
            return
        try:
            results.put((tasks[place], _draw(sampler, sets, tasks[place])))
        except Exception as error:
            results.put((tasks[place], error))
            return
