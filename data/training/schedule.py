"""Shapes that change over the steps of a run: from small and short to large and long, as the papers train."""

from collections.abc import Sequence

from data.training.packing import BatchPlanner
from data.training.sampling import ClipShape, Slot


class ShapeSchedule:
    """A `BatchPlanner` for each part of the run in which the same shapes are used.

    Args:
        shapes: with their first and last steps; choices in slots are positions in it.
        budget: the most pixels (frames x height x width) of one rank's batch.
        seed: of the whole run.

    Raises:
        ValueError: steps in which no shape is used, or a shape over the budget.
    """

    def __init__(self, shapes: Sequence[ClipShape], budget: int, seed: int) -> None:
        ends = {shape.end for shape in shapes if shape.end is not None}
        self.starts = sorted({0, *(shape.start for shape in shapes), *ends})
        self.used = [[i for i, shape in enumerate(shapes) if shape.used_in(start)] for start in self.starts]
        self.planners = []
        for number, (start, used) in enumerate(zip(self.starts, self.used, strict=True)):
            if not used:
                raise ValueError(f"no entry of data.shapes is used from step {start} on; change their start or end.")
            sizes, weights = [shapes[i].pixels for i in used], [shapes[i].weight for i in used]
            self.planners.append(BatchPlanner(sizes, weights, budget, seed, phase=number))
            self.planners[-1].warn_if_loose()

    def plan(self, step: int, rank: int = 0, world: int = 1) -> list[Slot]:
        """See `BatchPlanner.plan`."""
        number = self._phase(step)
        slots = self.planners[number].plan(step - self.starts[number], rank, world)
        return [Slot(slot.number, self.used[number][slot.choice]) for slot in slots]

    def fill(self, step: int) -> float:
        """See `BatchPlanner.fill`."""
        number = self._phase(step)
        return self.planners[number].fill(step - self.starts[number])

    def _phase(self, step: int) -> int:
        return max(i for i, start in enumerate(self.starts) if start <= step)
