"""Random choices, and random walks over frames, which give the parameters of degradations."""

from collections.abc import Mapping

import numpy as np

from data.degradation.config import Walk


def choose(generator: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One name, with probabilities proportional to the weights."""
    names = list(weights)
    p = np.asarray([weights[name] for name in names], dtype=np.float64)
    return names[int(generator.choice(len(names), p=p / p.sum()))]


def walk(generator: np.random.Generator, config: Walk, frames: int) -> np.ndarray:
    """A bounded random walk over the frames of a clip: float64 [frames], inside `config.range`."""
    return walk_from(generator, float(generator.uniform(*config.range)), config, frames)


def walk_with_half_below_one(generator: np.random.Generator, config: Walk, frames: int) -> np.ndarray:
    """As `walk`, but the first value is below 1 with probability one half, whatever the range.

    Shape exponents of kernels use it, so that peaked kernels (below 1) and flat ones (above 1) are equally likely.
    """
    low, high = config.range
    below = generator.random() < 0.5
    start = generator.uniform(min(low, 1.0), 1.0) if below else generator.uniform(1.0, max(high, 1.0))
    return walk_from(generator, float(np.clip(start, low, high)), config, frames)


def walk_from(generator: np.random.Generator, start: float, config: Walk, frames: int) -> np.ndarray:
    """The walk that begins at `start`: float64 [frames]."""
    low, high = config.range
    values = np.empty(frames)
    values[0] = start
    steps = generator.uniform(-config.walk, config.walk, frames - 1)
    for i, step in enumerate(steps):
        values[i + 1] = min(max(values[i] + step, low), high)
    return values
