"""Does a jump stand where windows of a long clip meet? Steps from frame to frame at the borders and elsewhere.

python projects/window_figures.py --clips FOLDER --size 96x128 --window 21

A step is the mean change from one frame to the next; what is printed is how far it is from the same step of the clip
restored whole, in 8-bit codes: at the frames in which windows meet, and at all others.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.distributed.row_parallel import UnshardedClip
from data.media import find_media, open_media
from data.video.framing import latents_within
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.restore import sample
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.segments import FROM_ITS_BEGINNING
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS
from projects.video_diffusion_sr.to_frames import decode
from projects.video_diffusion_sr.to_latents import encode, prepare

CODES = 127.5  # of 8 bits, for the networks' [-1, 1]
VARIANTS = ("two latents shared", "no overlap", "pixels faded")
QUIET = ProgressBar("", None, show=False)


def frames_of(latents: Sequence[Tensor], restorer: Restorer) -> Tensor:
    """Restored latents, windows [t, h, w, c] of a clip -> its pixels [3, T, h', w'] in 8-bit codes."""
    parts = decode(iter(latents), restorer, UnshardedClip(), FROM_ITS_BEGINNING)
    return torch.cat([part.clip.float() for part in parts], 1) * CODES


def windows_of(latents: Tensor, window: int, step: int, restorer: Restorer) -> Iterator[tuple[int, Tensor]]:
    """(first latent, restored latents) of windows by themselves, `step` apart."""
    for first in range(0, max(len(latents) - window + step, 1), step):
        part = latents[first : first + window]
        yield first, torch.cat(list(sample(iter([part]), replace(restorer, window=None), QUIET, first)))


def pixels_faded(latents: Tensor, window: int, restorer: Restorer) -> Tensor:
    """Every window decoded by itself, the shared frames faded between pictures."""
    factor, clip = restorer.grid.factor, None
    for first, restored in windows_of(latents, window, window - SHARED_LATENTS, restorer):
        shown = frames_of([restored], restorer)
        if clip is None:
            clip = shown
            continue
        start = restorer.grid.first_frame(first) + factor - 1  # its first latent gave the last of these frames alone
        shared = clip.shape[1] - start
        weights = torch.arange(1, shared + 1)[:, None, None] / (shared + 1)
        faded = torch.lerp(clip[:, start:], shown[:, :shared], weights)
        clip = torch.cat([clip[:, :start], faded, shown[:, shared:]], 1)
    return clip


def variants(path: Path, restorer: Restorer, window: int) -> tuple[dict[str, Tensor], Tensor, set[int]]:
    """(the clip in each of `VARIANTS`, whole, the frames in which windows meet)."""
    with open_media(path) as reader:
        restorer.apply_plan(reader.info)
        prepared = prepare(iter(reader), restorer, UnshardedClip())
        latent_size = restorer.latent_size(reader.info)
        latents = torch.cat(list(encode(prepared, latent_size, restorer, UnshardedClip(), QUIET)))
    whole = frames_of(list(sample(iter([latents]), replace(restorer, window=None), QUIET)), restorer)
    shared = frames_of(list(sample(iter([latents]), replace(restorer, window=window), QUIET)), restorer)
    apart = frames_of([part for _, part in windows_of(latents, window, window, restorer)], restorer)
    clips = dict(zip(VARIANTS, (shared, apart, pixels_faded(latents, window, restorer)), strict=True))
    grid, meet = restorer.grid, set()
    for step, overlap in ((window - SHARED_LATENTS, SHARED_LATENTS), (window, 0)):
        for latent in range(step, len(latents), step):
            meet |= set(range(grid.first_frame(latent), grid.first_frame(latent + overlap) + 1))
    return clips, whole, meet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="seedvr2_tiny")
    parser.add_argument("--size", default="96x128", help="area of the result, HEIGHTxWIDTH (%(default)s)")
    parser.add_argument("--window", type=int, default=21, help="frames (%(default)s)")
    parser.add_argument("--most", type=int, help="clips; default: all")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    steps: dict[str, dict[str, list[Tensor]]] = {variant: {"borders": [], "elsewhere": []} for variant in VARIANTS}
    with process_group("cpu" if not torch.cuda.is_available() else "cuda") as process:
        restorer = build(PRESETS[args.preset], Request(res=(height, width)), Parallel(process))
        window = latents_within(args.window, restorer.grid.factor)
        for path in find_media(args.clips)[0][: args.most]:
            clips, whole, meet = variants(path, restorer, window)
            for variant, clip in clips.items():
                off = (clip.diff(dim=1) - whole.diff(dim=1)).abs().mean((0, 2, 3))
                for number, value in enumerate(off, 1):
                    steps[variant]["borders" if number in meet else "elsewhere"].append(value)
    print("| | at borders: mean | worst | elsewhere: mean | worst |\n| --- | --- | --- | --- | --- |")
    for variant, found in steps.items():
        values = [torch.stack(found[place]) for place in ("borders", "elsewhere")]
        print(f"| {variant} | {' | '.join(f'{value.mean():.2f} | {value.max():.2f}' for value in values)} |")


if __name__ == "__main__":
    main()
