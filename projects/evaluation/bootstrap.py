"""Confidence intervals of a mean over clips, by the percentile bootstrap."""

from collections.abc import Sequence

import numpy as np

RESAMPLES, AT_ONCE = 10_000, 500
LEVEL = 0.95


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `values`, one per clip; None for fewer than two clips.

    To compare two methods, pass their difference for each clip, so that differences between clips do not widen the
    interval.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    clips = np.asarray(values, dtype=np.float64)
    batches = [generator.integers(len(clips), size=(AT_ONCE, len(clips))) for _ in range(RESAMPLES // AT_ONCE)]
    means = np.concatenate([clips[batch].mean(1) for batch in batches])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
