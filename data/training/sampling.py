"""Which clip shapes a step holds, and the dice of each of its slots: pure functions of (seed, step, slot).

A run is resumed by its step alone: nothing here remembers anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHAPE_STREAM, SAMPLE_STREAM = 0, 1  # two independent streams of dice for one (seed, step)


@dataclass(frozen=True)
class ClipShape:
    """The size of a training clip in frames and pixels; `weight` is its share among the shapes."""

    frames: int
    height: int
    width: int
    weight: float = 1.0

    @property
    def pixels(self) -> int:
        """Frames times height times width: what a budget counts."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Slot:
    """One place in the packed batch of a step. `number` is unique in the step over all ranks."""

    number: int
    choice: int


def plan_slots(
    sizes: Sequence[int], weights: Sequence[float], budget: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> list[Slot]:
    """The slots of one rank's packed batch: choices are drawn by weight until the next would pass the budget.

    Every rank gets the same choices in the same order and slots of its own, so that all ranks carry the same load in
    every step and no two of them see the same sample.

    Args:
        sizes: the cost of each choice, in the budget's unit (pixels of a clip, or tokens).
        weights: relative frequency of each choice. Large choices close a batch more often than they enter it, so their
            share among the samples is a little below their weight.
        budget: the most that one rank's batch may cost.
        seed, step: what the draw depends on.
        rank, world: this data-parallel rank and their number.

    Raises:
        ValueError: a choice alone is over the budget, or the rank is not in the world.
    """
    if max(sizes) > budget:
        raise ValueError(f"a sample of size {max(sizes)} does not fit into the budget of {budget} for one batch.")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} ranks.")
    rng = np.random.default_rng([seed, SHAPE_STREAM, step])
    p = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    slots: list[Slot] = []
    used = 0
    while True:
        choice = int(rng.choice(len(sizes), p=p))
        used += sizes[choice]
        if used > budget:
            return slots
        slots.append(Slot(len(slots) * world + rank, choice))


def slot_generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """The dice of one sample."""
    return np.random.default_rng([seed, SAMPLE_STREAM, step, slot])
