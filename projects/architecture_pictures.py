"""Draw the pictures of docs/architecture.md: a slice's way through the VAE in time, and rows over ranks.

python projects/architecture_pictures.py --output docs/images
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from common.distributed.row_parallel import RowBlocks
from models.video_vae_v3.modules.activation import Activation, regroup
from models.video_vae_v3.modules.schedule import (
    F43,
    LevelShape,
    Schedule,
    default_schedule,
    filled_slice,
    level_shapes,
)
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

SIZE, RANKS = (720, 1280), 4
RELEASED = level_shapes((128, 256, 512, 512), 2)  # the VAE of all released models
COLOURS = {"winograd": "#9ecae1", "direct": "#d9d9d9", "first": "#fdd0a2"}
EVERY = {1: "every frame", 2: "every 2nd frame", 4: "every 4th frame"}
RANK_COLOURS = ("#9ecae1", "#a1d99b", "#fdd0a2", "#dadaeb", "#fcbba1", "#c7e9c0", "#d0d1e6", "#fee391")


@dataclass(frozen=True)
class Step:
    """The processing of one group of frames in one level.

    level: index of the level.
    start: the group's first frame in the slice, counted at the level's frame rate.
    frames: number of frames in the group.
    """

    level: int
    start: int
    frames: int


def steps(schedule: Schedule, levels: Sequence[LevelShape], decoder: bool) -> list[Step]:
    """The steps of one slice in the order of computation; levels request groups as in `inference_path`."""
    made: list[Step] = []
    order = range(len(levels)) if not decoder else reversed(range(len(levels)))
    first = len(levels) - 1 if decoder else 0
    groups = iter([_frames((schedule.slice_frames or 0) // levels[first].time)])
    for level in order:
        after = level + (-1 if decoder else 1)
        following = levels[after].time if 0 <= after < len(levels) else levels[level].time
        wanted = schedule.levels[after].group if decoder and level else None
        groups = _level(
            made, level, regroup(groups, schedule.levels[level].group), levels[level].time, following, wanted
        )
    for _ in groups:
        pass
    return made


def _level(
    made: list[Step], level: int, groups: Iterator[Activation], time: int, following: int, wanted: int | None
) -> Iterator[Activation]:
    """Pass groups through a level and record them; an upsampler makes `wanted` frames at once, a downsampler half."""
    start = 0
    for group in groups:
        made.append(Step(level, start, group.frames))
        start += group.frames
        left = group.frames * time // following
        while left:
            count = min(wanted or left, left)
            yield _frames(count)
            left -= count


def _frames(count: int) -> Activation:
    return Activation(torch.empty(1, count, 1, 1, 1, device="meta"))


class Svg:
    """An SVG drawing, to which elements are added. Lengths are in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, fill: str, text: str = "") -> None:
        self.lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="#333"/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 5, text, "middle")

    def text(self, x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> None:
        self.lines.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>')

    def arrow(self, x: float, y: float, to_y: float) -> None:
        """Draw a vertical arrow with a head of five pixels."""
        tip = 5 if to_y < y else -5
        self.lines.append(f'<path d="M{x:g} {y:g}V{to_y:g}m-4 {tip}l4 {-tip}l4 {tip}" fill="none" stroke="#a50f15"/>')

    def __str__(self) -> str:
        return "\n".join([*self.lines, "</svg>\n"])


def schedule_picture(size: tuple[int, int]) -> str:
    """Draw frames against levels for a slice of the default schedule on a GPU, with numbers for the order of steps."""
    slice_frames = filled_slice(RELEASED, *size, F43)
    schedule = default_schedule(RELEASED, *size, slice_frames, F43)
    left, cell, row = 260, 62, 34
    panel = 70 + row * len(RELEASED)
    svg = Svg(left + cell * (1 + slice_frames) + 30, 2 * panel + 60)
    for number, decoder in enumerate((False, True)):
        top = number * panel + 10
        name = "decode" if decoder else "encode"
        svg.text(10, top + 16, f"{name} a slice of {slice_frames} frames, {size[0]}x{size[1]}", weight="bold")
        for frame in range(slice_frames + 1):
            svg.text(left + cell * frame + cell / 2, top + 40, str(frame), "middle")
        for level, shape in enumerate(RELEASED):
            y = top + 48 + row * level
            svg.text(10, y + 20, f"level {level}: {size[0] >> level}x{size[1] >> level}, {EVERY[shape.time]}")
            svg.box(left, y, cell - 4, row - 6, COLOURS["first"], "first")
        for count, step in enumerate(steps(schedule, RELEASED, decoder), 1):
            time, kind = RELEASED[step.level].time, "winograd" if schedule.levels[step.level].winograd else "direct"
            x = left + cell * (1 + step.start * time)
            width = cell * step.frames * time - 4
            svg.box(x, top + 48 + row * step.level, width, row - 6, COLOURS[kind], str(count))
    y = 2 * panel + 20
    for x, (kind, text) in zip(
        (10, 290, 530),
        (
            ("first", "the clip's first frame, alone, before"),
            ("winograd", "a group by Winograd F(4, 3)"),
            ("direct", "a group by 3-D convolutions"),
        ),
        strict=True,
    ):
        svg.box(x, y, 14, 14, COLOURS[kind])
        svg.text(x + 20, y + 12, text)
    return str(svg)


def rows_picture(size: tuple[int, int], ranks: int) -> str:
    """Draw row blocks at three levels, the rows that neighbours send, and the whole frames that each rank finishes."""
    factor = 2 ** (len(RELEASED) - 1)
    blocks = RowBlocks.of(size[0] // factor, ranks)
    slice_frames = filled_slice(RELEASED, *size, F43)
    svg, top, height = Svg(930, 400), 60, 280
    columns = (
        (20, 110, factor, "level 3: latents"),
        (170, 150, factor // 2, "level 2"),
        (370, 200, 1, "level 0: pixels"),
    )
    for x, width, scale, name in columns:
        rows = size[0] // scale
        svg.text(x + width / 2, top - 24, name, "middle", "bold")
        svg.text(x + width / 2, top - 8, f"{rows} rows", "middle")
        for rank in range(ranks):
            span = blocks.span(rank, factor // scale)
            y, bottom = (top + height * edge / rows for edge in (span.start, span.stop))
            svg.box(x, y, width, bottom - y, RANK_COLOURS[rank % 8], f"rank {rank}: {span.start}-{span.stop - 1}")
            if rank:
                svg.arrow(x + 14, y - 14, y + 12)
                svg.arrow(x + 28, y + 14, y - 12)
    frames = RowBlocks.of(slice_frames, ranks)
    svg.text(750, top - 24, "finished: whole frames", "middle", "bold")
    svg.text(750, top - 8, f"a slice of {slice_frames}", "middle")
    for rank in range(ranks):
        span = frames.span(rank)
        for frame in range(span.start, span.stop):
            x, y = 640 + 28 * frame, top + 20 + 24 * frame
            svg.box(x, y, 84, 56, RANK_COLOURS[rank % 8])
            svg.text(x + 4, y + 14, str(frame + 1))
    svg.text(590, top + height / 2, "all to all")
    svg.arrow(24, 376, 362)
    svg.text(
        36, 376, "before a convolution: one row of each neighbour; norms: sums of all; attention: keys, values of all"
    )
    return str(svg)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--output", type=to_path, default=Path("docs/images"), help="folder for the two pictures")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "schedule.svg").write_text(schedule_picture(SIZE))
    (args.output / "rows.svg").write_text(rows_picture(SIZE, RANKS))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
