"""How sure a mean over clips is: percentile intervals from clips drawn with replacement."""

from collections.abc import Sequence

import numpy as np

DRAWS, AT_ONCE = 10_000, 500
LEVEL = 0.95


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of one value a clip; None for fewer than two clips.

    For a comparison give the differences of two methods, clip by clip: what makes a clip hard is then not counted as
    doubt about the difference.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    clips = np.asarray(values, dtype=np.float64)
    parts = [clips[generator.integers(len(clips), size=(AT_ONCE, len(clips)))].mean(1) for _ in range(DRAWS // AT_ONCE)]
    means = np.concatenate(parts)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
