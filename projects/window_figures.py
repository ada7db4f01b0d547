"""Is there a jump where windows of a long clip meet? Steps from frame to frame at the borders and elsewhere.

python projects/window_figures.py --clips FOLDER OTHER_FOLDER --size 96x128 --window 21

A step is the mean change from one frame to the next; what is printed is how far it is from the same step of the clip
restored whole, in 8-bit codes: at the frames in which windows meet, and at all others. "over 1 code" are the borders
of which a step is further off than that.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.distributed.row_parallel import UnshardedClip
from common.logger import get_logger, set_up_logging
from data.media import MediaError, find_media, open_media
from data.video.framing import latents_within
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.restore import sample
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.segments import FROM_ITS_BEGINNING, Grid
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS
from projects.video_diffusion_sr.to_frames import decode
from projects.video_diffusion_sr.to_latents import encode, prepare

logger = get_logger(__name__)

CODES = 127.5  # 8-bit codes per unit of the networks' [-1, 1]
VARIANTS = ("two latents shared", "no overlap", "pixels faded")
QUIET = ProgressBar("", None, show=False)


def frames_of(latents: Sequence[Tensor], restorer: Restorer) -> Tensor:
    """Decode the restored latents of a clip, windows [t, h, w, c], to pixels [3, T, h', w'] in units of 8-bit codes."""
    decoded = decode(iter(latents), restorer, UnshardedClip(), FROM_ITS_BEGINNING)
    return torch.cat([slice_.clip.float() for slice_ in decoded], 1) * CODES


def windows_of(latents: Tensor, window: int, step: int, restorer: Restorer) -> Iterator[tuple[int, Tensor]]:
    """Yield (first latent, restored latents) of windows that begin every `step` latents and are restored separately."""
    for first in range(0, max(len(latents) - window + step, 1), step):
        latents_of_window = latents[first : first + window]
        yield first, torch.cat(list(sample(iter([latents_of_window]), replace(restorer, window=None), QUIET, first)))


def pixels_faded(latents: Tensor, window: int, restorer: Restorer) -> Tensor:
    """Decode every window separately, and cross-fade the pixels of the frames that windows share."""
    factor = restorer.grid.factor
    clip: Tensor | None = None
    for first, restored in windows_of(latents, window, window - SHARED_LATENTS, restorer):
        shown = frames_of([restored], restorer)
        if clip is None:
            clip = shown
            continue
        start = restorer.grid.first_frame(first) + factor - 1  # the window's first latent gives one frame, the last one
        shared = clip.shape[1] - start
        weights = torch.arange(1, shared + 1)[:, None, None] / (shared + 1)
        faded = torch.lerp(clip[:, start:], shown[:, :shared], weights)
        clip = torch.cat([clip[:, :start], faded, shown[:, shared:]], 1)
    assert clip is not None, "there is one window at least"
    return clip


def variants(path: Path, restorer: Restorer, window: int) -> tuple[dict[str, Tensor], Tensor]:
    """(the clip restored in each of `VARIANTS`, restored whole): pixels [3, T, h', w'] in units of 8-bit codes."""
    with open_media(path) as reader:
        restorer.apply_plan(reader.info)
        prepared = prepare(iter(reader), restorer, UnshardedClip())
        latent_size = restorer.latent_size(reader.info)
        latents = torch.cat(list(encode(prepared, latent_size, restorer, UnshardedClip(), QUIET)))
    whole = frames_of(list(sample(iter([latents]), replace(restorer, window=None), QUIET)), restorer)
    shared = frames_of(list(sample(iter([latents]), replace(restorer, window=window), QUIET)), restorer)
    apart = frames_of([restored for _, restored in windows_of(latents, window, window, restorer)], restorer)
    return dict(zip(VARIANTS, (shared, apart, pixels_faded(latents, window, restorer)), strict=True)), whole


def borders_of(variant: str, frames: int, window: int, grid: Grid) -> list[range]:
    """For each border of two windows in a variant, the numbers of the later frames of the steps at the border."""
    overlap = 0 if variant == "no overlap" else SHARED_LATENTS
    latents, step = -(-(frames - 1) // grid.factor) + 1, window - overlap
    starts = range(step, latents - overlap, step)
    return [range(grid.first_frame(first), grid.first_frame(first + overlap) + 1) for first in starts]


@dataclass
class Steps:
    """The errors of the steps from frame to frame, in 8-bit codes.

    borders: the largest error at each border.
    at: the errors of all steps at borders.
    elsewhere: the errors of all other steps.
    """

    borders: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    elsewhere: list[float] = field(default_factory=list)

    def add(self, clip: Tensor, whole: Tensor, borders: Sequence[range]) -> None:
        off = (clip.diff(dim=1) - whole.diff(dim=1)).abs().mean((0, 2, 3)).tolist()  # off[n]: the step to frame n + 1
        of_border = [[off[number - 1] for number in border if number <= len(off)] for border in borders]
        inside = {number for border in borders for number in border}
        self.borders += map(max, of_border)
        self.at += [value for border in of_border for value in border]
        self.elsewhere += [value for number, value in enumerate(off, 1) if number not in inside]

    def row(self, variant: str) -> str:
        if not self.borders:
            return f"| {variant} | 0 | | | | | |"
        far = sum(value > 1 for value in self.borders)
        figures = [f"{mean(values):.2f} | {max(values):.2f}" for values in (self.at, self.elsewhere)]
        return f"| {variant} | {len(self.borders)} | {' | '.join(figures)} | {far} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--clips", type=to_path, nargs="+", required=True, help="folders; their pictures count nothing")
    parser.add_argument("--preset", choices=PRESETS, default="seedvr2_tiny")
    parser.add_argument("--size", default="96x128", help="area of the result, HEIGHTxWIDTH (%(default)s)")
    parser.add_argument("--window", type=int, default=21, help="frames (%(default)s)")
    parser.add_argument("--most", type=int, help="clips of a folder; default: all")
    args = parser.parse_args(arguments)
    set_up_logging()
    height, cross, width = args.size.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        parser.error(f"--size {args.size}: give HEIGHTxWIDTH, such as 96x128")
    steps, clips, frames = {variant: Steps() for variant in VARIANTS}, 0, 0
    with process_group("cpu" if not torch.cuda.is_available() else "cuda") as process:
        restorer = build(PRESETS[args.preset], Request(res=(int(height), int(width))), Parallel(process))
        window = latents_within(args.window, restorer.grid.factor)
        for path in [path for folder in args.clips for path in find_media(folder)[0][: args.most]]:
            try:
                made, whole = variants(path, restorer, window)
            except MediaError as error:
                logger.warning("%s", error)
                continue
            clips, frames = clips + (whole.shape[1] > 1), frames + whole.shape[1] - 1
            for variant, clip in made.items():
                steps[variant].add(clip, whole, borders_of(variant, whole.shape[1], window, restorer.grid))
    print(f"{clips} clips, {frames} steps, {args.size}, windows of {args.window} frames\n")
    print("| | borders | at borders: mean | worst | elsewhere: mean | worst | over 1 code |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for variant, found in steps.items():
        print(found.row(variant))


if __name__ == "__main__":
    sys.exit(run_program(main))
