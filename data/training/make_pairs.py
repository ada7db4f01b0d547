"""Many pairs at once, on all cores: for data sets small enough to train from memory."""

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from data.degradation.pipeline import build_degradation
from data.training.index import build_index
from data.training.pair_sampler import PairSampler, SamplerConfig
from data.training.sampling import ClipShape, slot_generator

POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Pairs:
    """Stacked pairs: `hq` uint8 [N, T, H, W, 3], `lq` uint8 [N, T, H/s, W/s, 3], and where each comes from."""

    hq: np.ndarray
    lq: np.ndarray
    identities: list[str]

    def save(self, folder: str | Path) -> Path:
        """Write one shard with `hq` and `lq`, which `ShardReader` and `ShardDataset` read; returns the index's path."""
        import torch  # only here: the worker processes start without it

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
    """Degrade `count` random crops. Pair i depends on (seed, i) alone, not on the number of workers.

    Args:
        paths: folders of videos and images.
        count: how many pairs.
        shape: of every pair.
        seed: of the whole set.
        workers: processes (0: in this one). They are spawned: the calling program needs a `__main__` guard.
        degradation: one recipe (`configs_degradation/*.yaml` as a mapping), used whatever the number of frames.
        config: how pairs are cut.
    """
    recipe = build_degradation(degradation)
    sampler = PairSampler(build_index(paths), [shape], recipe, recipe, config)
    scale = recipe.config.scale
    hq = np.empty((count, shape.frames, shape.height, shape.width, 3), dtype=np.uint8)
    lq = np.empty((count, shape.frames, shape.height // scale, shape.width // scale, 3), dtype=np.uint8)
    identities = [""] * count
    source = _in_processes(sampler, shape, seed, count, workers) if workers else _here(sampler, shape, seed, count)
    for i, pair in tqdm(source, total=count, desc="pairs", unit="pair"):
        hq[i], lq[i], identities[i] = pair.hq, pair.lq, f"{pair.identity} seed={seed} pair={i}"
    return Pairs(hq, lq, identities)


def _here(sampler: PairSampler, shape: ClipShape, seed: int, count: int):
    for i in range(count):
        yield i, sampler.draw(shape, slot_generator(seed, 0, i))


def _in_processes(sampler: PairSampler, shape: ClipShape, seed: int, count: int, workers: int):
    context = get_context("spawn")
    results, next_number = context.Queue(maxsize=4 * workers), context.Value("q", 0)
    arguments = (sampler, shape, seed, count, next_number, results)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        for _ in range(count):
            yield _next(results, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(results: Any, processes: list[BaseProcess]) -> tuple[int, Any]:
    while True:
        try:
            i, pair = results.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise RuntimeError("a worker process died; the machine may be short of memory.") from None
            continue
        if isinstance(pair, Exception):
            raise pair
        return i, pair


def _work(sampler: PairSampler, shape: ClipShape, seed: int, count: int, next_number: Any, results: Any) -> None:
    cv2.setNumThreads(1)
    while True:
        with next_number.get_lock():
            i = next_number.value
            next_number.value += 1
        if i >= count:
            return
        try:
            results.put((i, sampler.draw(shape, slot_generator(seed, 0, i))))
        except Exception as error:
            results.put((i, error))
            return
