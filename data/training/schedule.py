"""Shapes that change during a run, from small and short clips to large and long ones, as in the papers."""

from collections.abc import Sequence

from data.training.packing import BatchPlanner
from data.training.sampling import ClipShape, Slot


class ShapeSchedule:
    """Plans batches with one `BatchPlanner` for each part of the run that uses the same shapes.

    Args:
        shapes: all shapes of the run; `Slot.choice` is an index into them.
        budget: upper limit of the pixels (frames x height x width) of one rank's batch.
        seed: the seed of the run.

    Raises:
        ValueError: a step uses no shape, or a shape exceeds the budget.
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
