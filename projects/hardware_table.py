"""The GPU memory that each model needs for each size of result, as the memory planner predicts it.

    python projects/hardware_table.py

`projects/generated_docs.py` writes the same table into the README. No GPU is needed: the networks have no weights, and
the planner counts bytes from their shapes.
"""

import sys
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.distributed.timeout import TIMEOUT_S
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.memory.budget import SAFETY, Budget, Clip, choose_plan, make_budget, priced, smallest
from projects.video_diffusion_sr.memory.plan import MemoryPlan, candidates
from projects.video_diffusion_sr.output_size import OutputSize
from projects.video_diffusion_sr.presets import SEEDVR2_3B, SEEDVR2_7B, Preset
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve

MODELS = {"3B": SEEDVR2_3B, "7B": SEEDVR2_7B}  # the multi-step models have the same networks and memory
SIZES = {"720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}  # (height, width) of the result
SCALE = 2  # size of the result relative to its source
CLIP_FRAMES = 97
LONG_FRAMES = 1000  # longer than the presets' window; for such clips, memory does not depend on the length
HEADER = ("model", "result", "picture", f"clip of {CLIP_FRAMES} frames", "longer clip")


def budget_of(preset: Preset) -> Budget:
    """A budget of unlimited memory for a preset's networks in bfloat16 on one GPU; no GPU is needed."""
    request = Request(res=preset.res, dtype="bfloat16", size=OutputSize(scale=SCALE), random_weights=True)
    alone = Parallel(Process(0, 1, 0, torch.device("cpu"), None, 0, TIMEOUT_S))
    return make_budget(resolve(preset, request, torch.device("cuda")), alone, float("inf"))


def clips_of(size: tuple[int, int]) -> tuple[Clip, Clip, Clip]:
    """The sources of one row: a picture, a clip that fits into the transformer's window, and one that does not.

    Args:
        size: height and width of the result.
    """
    height, width = (side // SCALE for side in size)
    return (
        Clip(height, width, 1, still=True),
        Clip(height, width, CLIP_FRAMES),
        Clip(height, width, LONG_FRAMES),
    )


def needs(budget: Budget, clip: Clip) -> tuple[float, float, float]:
    """The memory in GiB of the plan without a bound, the smallest exact plan, and the smallest plan (maybe with tiles).

    Each is the smallest `--vram`, to a tenth, with which the planner finds such a plan.
    """
    work = budget.work(clip)
    exact = (priced(plan, work) for plan in candidates(work) if plan.schedule.tile is None)
    return (
        bound(choose_plan(float("inf"), work)),
        bound(min(exact, key=lambda plan: plan.predicted_peak_gib)),
        bound(smallest(work)),
    )


def bound(plan: MemoryPlan) -> float:
    """The `--vram` that a plan needs, in GiB, rounded up to a tenth."""
    return ceil(plan.predicted_peak_gib * SAFETY * 10) / 10


def rows() -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row."""
    for model, preset in MODELS.items():
        budget = budget_of(preset)
        for size, shape in SIZES.items():
            cells = (" / ".join(f"{gib:.1f}" for gib in needs(budget, clip)) for clip in clips_of(shape))
            yield model, size, *cells


def table() -> str:
    """The table in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *rows()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    new_parser(__doc__).parse_args(arguments)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
