"""Draw what each stage of the degradation does to two photographs: the picture of docs/degradation.md.

python projects/degradation_picture.py --output docs/images/degradation.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import load_config, plain_values
from common.extras import need
from data.degradation.blur import BlurDraw
from data.degradation.compression import CompressionDraw
from data.degradation.jpeg import JpegDraw
from data.degradation.noise import NoiseDraw
from data.degradation.pipeline import Step, VideoDegradation
from data.degradation.resize import ResizeDraw
from data.training.motion import MotionConfig, animate
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

FRAMES, SIDE = 5, 256  # length of the clips, and their height and width in pixels
TILE, LABEL, COLUMNS = 128, 26, 7  # side of a tile and height of a label in pixels; tiles per row
COLOURS = 256  # a palette keeps the file small


def draw_picture(degrade: VideoDegradation, seeds: Sequence[int]) -> Image.Image:
    """Draw two rows of tiles per photograph: the middle of the first frame after each stage, all at one size."""
    rows = []
    photographs = need("skimage.data", "demo", "the picture of the degradation")
    for photograph, seed in zip((photographs.astronaut()[:300, 60:420], photographs.coffee()), seeds, strict=True):
        clip = animate(photograph, FRAMES, SIDE, SIDE, np.random.default_rng(seed), MotionConfig(scale=(1.0, 1.0)))
        trace: list[Step] = []
        degrade(clip, seed, trace)
        tiles = [tile(clip[0], "ground truth", f"{SIDE}x{SIDE}")]
        tiles += [tile(step.first_frame, step.stage, describe(step)) for step in trace]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
        rows += [np.concatenate(tiles[i : i + COLUMNS], axis=1) for i in range(0, len(tiles), COLUMNS)]
    picture = Image.fromarray(np.concatenate(rows))
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def tile(frame: np.ndarray, name: str, detail: str) -> np.ndarray:
    """The middle half of a frame under its label, uint8 [TILE + LABEL, TILE, 3]; small frames show their pixels."""
    height, width = frame.shape[:2]
    middle = frame[height // 4 : height - height // 4, width // 4 : width - width // 4]
    shrinks = middle.shape[0] > TILE
    picture = cv2.resize(middle, (TILE, TILE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
    label = np.full((LABEL, TILE, 3), 255, dtype=np.uint8)
    cv2.putText(label, name, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(label, detail, (2, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (90, 90, 90), 1, cv2.LINE_AA)
    return np.concatenate([label, picture])


def describe(step: Step) -> str:
    """Describe in a few words the random choices of a stage for the first frame."""
    draw, (height, width) = step.draw, step.first_frame.shape[:2]
    match draw:
        case BlurDraw():
            sigma = draw.parameters.get("sigma_x")
            return f"{draw.kind} {draw.size}" + (f" s {sigma[0]:.1f}" if sigma is not None else "")
        case ResizeDraw():
            return f"{draw.interpolation} to {width}x{height}"
        case NoiseDraw():
            return f"{draw.kind} {draw.levels[0]:.1f}" + (" gray" if draw.gray else "")
        case JpegDraw():
            return f"quality {draw.qualities[0]}"
        case CompressionDraw():
            return f"{draw.codec} {draw.bits_per_frame // 1000} kbit"
        case str():
            return f"{draw} to {width}x{height}"
    return "unsharp mask"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = new_parser(__doc__)
    parser.add_argument("--output", type=to_path, default=ROOT / "docs" / "images" / "degradation.png")
    parser.add_argument("--config", type=to_path, default=ROOT / "configs_degradation" / "video.yaml")
    parser.add_argument("--seeds", type=int, nargs=2, default=(128, 120), help="one for each photograph")
    flags = parser.parse_args(arguments)
    degrade = VideoDegradation(plain_values(load_config(flags.config)))
    draw_picture(degrade, flags.seeds).save(flags.output, optimize=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
