"""Plans the sizes of the samples in each packed batch: batches are nearly full, and shares follow the weights.

Steps are planned in windows: samples in the ratio of the weights are packed into as many batches as the window has
steps, and the batches are shuffled. A window depends only on the seed and its number, so a run can resume at any step.
"""

from collections.abc import Sequence

import numpy as np

from common.logger import get_logger
from data.training.sampling import SHAPE_STREAM, Slot

logger = get_logger(__name__)

WINDOW = 64  # steps that are planned together
FULL = 0.97  # the search for a fuller batch ends at this fill
MOST_TRIES = 2000  # combinations tried for one batch
LOW_FILL = 0.9  # a mean fill below this is worth a warning

Counts = tuple[int, ...]  # the number of samples of each choice


class BatchPlanner:
    """Plans batches that mix samples of several sizes ("choices").

    In a step, every rank gets the same sizes in the same order, so all ranks have the same load; slot numbers differ,
    so no two ranks draw the same sample. Within a batch the samples are sorted by choice. A combination of sizes
    therefore has one layout in the transformer, and not one for each order.

    Args:
        sizes: the size of each choice, in the unit of the budget (pixels of a clip, or latent positions).
        weights: the relative frequency of each choice among all samples.
        budget: upper limit of the total size of one rank's batch.
        seed: the seed of the run.
        phase: the number of this planner, if a run has several.

    Raises:
        ValueError: there are no choices, a weight is negative, or a choice exceeds the budget.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], budget: int, seed: int, phase: int = 0) -> None:
        if not sizes or len(sizes) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"a batch needs sizes with weights of which one is positive, got {list(weights)}")
        if max(sizes) > budget:
            raise ValueError(f"a sample of size {max(sizes)} does not fit into the budget of {budget} for one batch.")
        self.sizes, self.budget = tuple(sizes), budget
        self.shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.seed, self.phase = seed, phase
        self._planned: tuple[int, list[Counts]] | None = None

    def plan(self, step: int, rank: int = 0, world: int = 1) -> list[Slot]:
        """The slots of one rank's batch in a step, counted from 0.

        Raises:
            ValueError: the rank is not in the world.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} ranks.")
        choices = [choice for choice, count in enumerate(self._counts(step)) for _ in range(count)]
        return [Slot(place * world + rank, choice) for place, choice in enumerate(choices)]

    def fill(self, step: int) -> float:
        """Return which fraction of the budget the batch of a step uses, in (0, 1]."""
        return cost(self._counts(step), self.sizes) / self.budget

    def warn_if_loose(self) -> float:
        """Return the mean fill of the first window, and log a warning if much of the budget is unused."""
        mean = float(np.mean([self.fill(step) for step in range(WINDOW)]))
        if mean < LOW_FILL:
            logger.warning(
                "batches fill %.0f %% of the budget of %d: no mix of the sizes %s comes closer; another budget would "
                "waste less",
                100 * mean,
                self.budget,
                list(self.sizes),
            )
        return mean

    def _counts(self, step: int) -> Counts:
        number, place = divmod(step, WINDOW)
        if self._planned is None or self._planned[0] != number:
            self._planned = number, self._window(number)
        return self._planned[1][place]

    def _window(self, number: int) -> list[Counts]:
        """The batches of one window, shuffled."""
        generator = np.random.default_rng([self.seed, SHAPE_STREAM, self.phase, number])
        offset = generator.random()
        # The most samples that still fit into the window's batches, by bisection.
        fits, too_many = 1, int(WINDOW * self.budget / min(self.sizes)) + 2
        packed = self._packed(fits, offset)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            candidate = self._packed(middle, offset)
            if len(candidate) <= WINDOW:
                fits, packed = middle, candidate
            else:
                too_many = middle
        while len(packed) < WINDOW:
            packed = divided(packed)
        return [packed[i] for i in generator.permutation(WINDOW)]

    def _packed(self, samples: int, offset: float) -> list[Counts]:
        """Pack `samples` samples, divided among the choices by weight, into as few batches as a greedy search finds."""
        # Systematic rounding: each choice gets the floor or the ceiling of its share, and its exact share on average.
        edges = np.floor(np.cumsum(self.shares) * samples + offset).astype(int)
        edges[-1] = samples
        left = np.diff(edges, prepend=0)
        order = sorted(range(len(self.sizes)), key=lambda choice: -self.sizes[choice])
        batches: list[Counts] = []
        while left.any():
            batch = best_batch(self.sizes, left, order, self.budget)
            # Repeat the batch while enough samples are left: this gives few combinations and takes little time.
            again = min(int(left[c]) // n for c, n in enumerate(batch) if n)
            batches += [batch] * again
            left -= again * np.asarray(batch)
        return batches


def best_batch(sizes: Sequence[int], left: np.ndarray, order: Sequence[int], budget: int) -> Counts:
    """The fullest batch that contains the largest remaining sample, as the number of samples of each choice.

    Args:
        left: number of samples of each choice that are not packed yet.
        order: the choices, largest first.
    """
    order = [choice for choice in order if left[choice]]
    best, best_cost, tries = [0] * len(sizes), 0, 0
    chosen = [0] * len(sizes)

    def search(place: int, used: int) -> bool:
        """Try counts for the choices from `place` on, larger counts first. Returns True to end the search."""
        nonlocal best, best_cost, tries
        tries += 1
        if used > best_cost:
            best, best_cost = list(chosen), used
        if best_cost >= FULL * budget or tries > MOST_TRIES:
            return True
        if place == len(order):
            return False
        choice = order[place]
        most, least = min(int(left[choice]), (budget - used) // sizes[choice]), 1 if place == 0 else 0
        for count in range(most, least - 1, -1):
            chosen[choice] = count
            if search(place + 1, used + count * sizes[choice]):
                return True
        chosen[choice] = 0
        return False

    search(0, 0)
    return tuple(best)


def divided(batches: list[Counts]) -> list[Counts]:
    """Return one batch more: the batch with the most samples is split in two. A single sample is duplicated instead."""
    largest = max(range(len(batches)), key=lambda i: sum(batches[i]))
    batch = batches[largest]
    if sum(batch) == 1:
        return [*batches, batch]
    half, rest = [0] * len(batch), list(batch)
    for choice, count in enumerate(batch):
        take = min(count, sum(batch) // 2 - sum(half))
        half[choice], rest[choice] = take, count - take
    return [*batches[:largest], tuple(half), tuple(rest), *batches[largest + 1 :]]


def cost(counts: Counts, sizes: Sequence[int]) -> int:
    """The total size of a batch with `counts` samples of each size."""
    return sum(count * size for count, size in zip(counts, sizes, strict=True))
