"""Draw the scale of `--strength`: the picture of docs/decisions/0012-strength.md.

    python projects/strength_picture.py --output docs/images/strength.png

A photograph of scikit-image is filmed, degraded and restored as the demo does it; a detail of one frame is shown at
every strength, by pixels above and by bands below.
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
from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.extras import need
from data.degradation.pipeline import build_degradation
from data.training.motion import animate
from projects.demo import CAMERA
from projects.program import new_parser, run_program
from projects.strength_study import STRENGTHS, Material, as_frames, by_band, by_pixel, material_of
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.strength import EXPONENTS

FRAMES, SIZE, SEED = 3, (192, 256), 1
TOP, LEFT, TILE, LABEL = 30, 66, 132, 18  # position and side of the detail, and height of its label, in pixels
COLOURS = 256  # a palette keeps the file small


def draw(material: Material) -> Image.Image:
    """Draw a row of tiles for mixing by pixels, and one for mixing by bands, with one column per strength."""
    rows = []
    for name, candidate in (("pixels", by_pixel), ("bands", by_band(EXPONENTS))):
        tiles = [tile(as_frames(candidate(material, s))[-1], f"{name}, {s:g}") for s in STRENGTHS]
        rows.append(np.concatenate(tiles, axis=1))
    return Image.fromarray(np.concatenate(rows)).quantize(COLOURS, dither=Image.Dither.NONE)


def tile(frame: np.ndarray, label: str) -> np.ndarray:
    """A detail of a frame under its label: uint8 [LABEL + TILE, TILE, 3]."""
    line = np.full((LABEL, TILE, 3), 255, dtype=np.uint8)
    cv2.putText(line, label, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([line, frame[TOP : TOP + TILE, LEFT : LEFT + TILE]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = new_parser(__doc__)
    parser.add_argument("--output", type=to_path, default=ROOT / "docs" / "images" / "strength.png")
    flags = parser.parse_args(arguments)
    photographs = need("skimage.data", "demo", "the picture of strengths")
    clean = animate(photographs.coffee(), FRAMES, *SIZE, np.random.default_rng(SEED), CAMERA)
    recipe = plain_values(load_config(ROOT / "configs_degradation" / "video.yaml"))
    degraded = build_degradation(recipe)(clean, SEED)
    with process_group("cpu") as process:
        restorer = build(SEEDVR2_TINY, Request(res=SIZE, seed=SEED), Parallel(process))
        picture = draw(material_of(clean, degraded, restorer))
    picture.save(flags.output, optimize=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
