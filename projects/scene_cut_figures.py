"""How well scene cuts are found: clips of one shot each are joined at known frames, as they are and made difficult.

python projects/scene_cut_figures.py --clips FOLDER     # without --clips: shots made of moving patterns
"""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from common.logger import set_up_logging
from data.media import find_media, open_media
from data.scene_cuts import find_cuts, thumbnail
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

SIZE = (144, 256)  # (height, width) of the joined shots
SHORTEST = 5  # smallest number of frames of a joined part
MOST_FRAMES = 200  # largest number of frames of a clip that are used
DISSOLVES = (1, 2, 4, 12)  # lengths of dissolves in frames
Shot = np.ndarray  # uint8 [T, h, w, 3]


def made_up_shots(count: int, seed: int) -> Iterator[Shot]:
    """Yield shots of cameras that move at different speeds over blurred noise."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        coarse = [generator.integers(0, 256, (rows, 7 * rows, 3)).astype(np.float32) for rows in (3, 9, 27)]
        scaled = [cv2.resize(texture, (4 * SIZE[1], SIZE[0]), interpolation=cv2.INTER_CUBIC) for texture in coarse]
        picture = (0.6 * scaled[0] + 0.3 * scaled[1] + 0.1 * scaled[2]).clip(0, 255).astype(np.uint8)
        speed = int(generator.integers(0, 12))
        yield np.stack([picture[:, n * speed :][:, : SIZE[1]] for n in range(36)])


def shots_of(folder: Path) -> Iterator[Shot]:
    """Yield the clips of a folder, reduced to `SIZE`."""
    for path in find_media(folder)[0]:
        with open_media(path) as reader:
            pictures = [frame.pixels.permute(1, 2, 0).numpy() for frame in islice(reader, MOST_FRAMES)]
        if len(pictures) > SHORTEST:
            yield np.stack([cv2.resize(p, SIZE[::-1], interpolation=cv2.INTER_AREA) for p in pictures])


def cuts_in(frames: Shot) -> list[int]:
    """The numbers of the frames at which the program detects cuts."""
    planes = (np.moveaxis(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb), 2, 0) for frame in frames)
    return [number for number, begins in find_cuts(map(thumbnail, planes)) if begins]


def joins(shots: Sequence[Shot], each: int, generator: random.Random) -> Iterator[tuple[Shot, int]]:
    """Yield (joined parts of two different shots, first frame of the second part), `each` times per shot."""
    for number, first in enumerate(shots):
        for other in generator.sample([n for n in range(len(shots)) if n != number], min(each, len(shots) - 1)):
            excerpts = [_excerpt(shot, generator) for shot in (first, shots[other])]
            yield np.concatenate(excerpts), len(excerpts[0])


def _excerpt(shot: Shot, generator: random.Random) -> Shot:
    length = generator.randint(SHORTEST, len(shot))
    start = generator.randint(0, len(shot) - length)
    return shot[start : start + length]


def dissolved(frames: Shot, at: int, length: int) -> Shot:
    """Replace the cut between two joined shots by a dissolve of `length` frames, for which both must be long enough."""
    first, behind = at - length // 2, at - length // 2 + length
    weights = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    before, after = frames[min(first, at - 1)], frames[max(behind - 1, at)]
    mixed = (before * (1 - weights) + after * weights).astype(np.uint8)
    return np.concatenate([frames[:first], mixed, frames[behind:]])


def entered(frames: Shot) -> Shot:
    """Cover a fifth of the picture with a mirrored part of it, from the middle of the shot on."""
    changed, height, width = frames.copy(), *SIZE
    place = np.s_[len(frames) // 2 :, height // 4 : height * 3 // 4, width // 4 : width * 13 // 20]
    changed[place] = 255 - frames[place]
    return changed


def noisy(frames: Shot, sigma: float) -> Shot:
    generator = np.random.default_rng(0)
    return np.stack([np.clip(f + generator.normal(0, sigma, f.shape), 0, 255).astype(np.uint8) for f in frames])


def flickering(frames: Shot, sigma: float) -> Shot:
    gains = np.random.default_rng(0).normal(0, sigma, (len(frames), 1, 1, 1))
    return np.clip(frames + gains, 0, 255).astype(np.uint8)


def flashed(frames: Shot, length: int) -> Shot:
    bright = frames.astype(int)
    bright[len(frames) // 2 :][:length] += 120
    return np.clip(bright, 0, 255).astype(np.uint8)


def panned(frames: Shot, step: int) -> Shot:
    """A shot of a camera that moves over the first frame and its mirror images."""
    wide = np.concatenate([frames[0], frames[0][:, ::-1]] * 2, 1)
    return np.stack([np.roll(wide, -n * step, 1)[:, : SIZE[1]] for n in range(len(frames))])


def faded(frames: Shot) -> Shot:
    return (frames * np.linspace(1, 0, len(frames))[:, None, None, None]).astype(np.uint8)


FINDABLE: dict[str, Callable[[Shot], Shot]] = {  # changes after which cuts should still be detected
    "as they are": lambda frames: frames,
    "noise of 25 codes": lambda frames: noisy(frames, 25),
    "flicker of 6 codes": lambda frames: flickering(frames, 6),
    "at 15% of the light": lambda frames: (frames * 0.15).astype(np.uint8),
    "at 5% of the light": lambda frames: (frames * 0.05).astype(np.uint8),
}
QUIET: dict[str, Callable[[Shot], Shot]] = {  # changes in which no cut should be detected
    "a flash of one frame": lambda frames: flashed(frames, 1),
    "a flash of two frames": lambda frames: flashed(frames, 2),
    "a pan of 19% of the width a frame": lambda frames: panned(frames, 48),
    "a fade to black": faded,
    "something covers a fifth of the picture at once": entered,
    "flicker of 15 codes": lambda frames: flickering(frames, 15),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--clips", type=to_path, nargs="*", default=[], help="folders of clips without cuts")
    parser.add_argument("--joins", type=int, default=6, help="joins for every clip (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    set_up_logging()
    shots = [shot for folder in args.clips for shot in shots_of(folder)] or list(made_up_shots(12, args.seed))
    print(f"{len(shots)} shots, {sum(map(len, shots))} frames")
    print("| | cuts found | false cuts | frames |\n| --- | --- | --- | --- |")
    for name, change in FINDABLE.items():
        joined = list(joins(shots, args.joins, random.Random(args.seed)))
        cuts_of = [(cuts_in(change(frames)), at) for frames, at in joined]
        hits, false = sum(at in cuts for cuts, at in cuts_of), sum(at != cut for cuts, at in cuts_of for cut in cuts)
        print(f"| {name} | {hits} of {len(cuts_of)} | {false} | {sum(len(frames) for frames, _ in joined)} |")
    for length in DISSOLVES:
        pairs = [(frames, at) for frames, at in joined if length // 2 <= at <= len(frames) - length]
        found = sum(bool(cuts_in(dissolved(frames, at, length))) for frames, at in pairs)
        print(f"| a dissolve of {length} frames | {found} of {len(pairs)} | | {sum(len(f) for f, _ in pairs)} |")
    for name, change in (FINDABLE | QUIET).items():
        false = sum(len(cuts_in(change(shot))) for shot in shots)
        print(f"| one shot, {name} | | {false} | {sum(map(len, shots))} |")
    large = np.zeros((1080, 1920), np.uint8)
    chroma, started = large[::2, ::2], time.process_time()
    for _ in range(50):
        thumbnail([large, chroma, chroma])
    print(f"a thumbnail of 1920x1080: {20 * (time.process_time() - started):.2f} ms")


if __name__ == "__main__":
    sys.exit(run_program(main))
