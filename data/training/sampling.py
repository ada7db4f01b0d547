"""The sizes of training clips, the slots of a packed batch, and the random generator of each slot."""

from dataclasses import dataclass

import numpy as np

SHAPE_STREAM, SAMPLE_STREAM = 0, 1  # two independent streams of random numbers for one (seed, step)


@dataclass(frozen=True)
class ClipShape:
    """The size of a training clip in frames and pixels.

    Attributes:
        weight: the relative frequency of this shape among the samples.
        start, end: the shape is used from step start up to and excluding step end (None: to the end of the run).
        aspects: width / height. If given, the shape is a group of buckets (`data.training.buckets`): each source is
            cropped to about this area, in the aspect that is nearest to its own.
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
        """Whether the shape is used in a step."""
        return self.start <= step and (self.end is None or step < self.end)


@dataclass(frozen=True)
class RankSeed:
    """The values that determine a rank's samples: the run's seed, the data-parallel rank and the number of ranks."""

    seed: int = 0
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Slot:
    """One sample of a packed batch. `number` is unique in a step over all ranks; `choice` is the index of its shape."""

    number: int
    choice: int


def slot_generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """The random generator of one sample."""
    return np.random.default_rng([seed, SAMPLE_STREAM, step, slot])
