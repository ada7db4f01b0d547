"""The sizes of training clips, the places of a packed batch, and the generator of each place's random draws."""

from dataclasses import dataclass

import numpy as np

SHAPE_STREAM, SAMPLE_STREAM = 0, 1  # two independent streams of random numbers for one (seed, step)


@dataclass(frozen=True)
class ClipShape:
    """The size of a training clip in frames and pixels.

    Attributes:
        weight: its share among the samples, up to a factor common to all shapes in use.
        start, end: the steps in which it is used, from start up to but without end (None: to the end of the run).
        aspects: widths over heights. Where there are some, this is a group of buckets (`data.training.buckets`): crops
            of about this area in each of these aspects, each source cut in the aspect that is nearest to its own.
    """

    frames: int
    height: int
    width: int
    weight: float = 1.0
    start: int = 0
    end: int | None = None
    aspects: tuple[float, ...] = ()

    @property
    def pixels(self) -> int:
        """Frames x height x width, the unit of budgets."""
        return self.frames * self.height * self.width

    def used_in(self, step: int) -> bool:
        """Whether a step may hold it."""
        return self.start <= step and (self.end is None or step < self.end)


@dataclass(frozen=True)
class RankSeed:
    """What decides the samples of a rank: the seed of the run, the data-parallel rank and the number of ranks."""

    seed: int = 0
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Slot:
    """One place in the packed batch of a step. `number` is unique in the step over all ranks."""

    number: int
    choice: int


def slot_generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """The random generator of one sample."""
    return np.random.default_rng([seed, SAMPLE_STREAM, step, slot])
