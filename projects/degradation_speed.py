"""Clips a second that the degradation makes on this machine, alone and with several processes.

python projects/degradation_speed.py --workers 1 2 --shape 17 256 256 --count 40
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import load_config, plain_values
from common.extras import need
from data.training.make_pairs import make_pairs
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path


def clips_per_second(folder: Path, shape: ClipShape, count: int, workers: int, recipe: dict[str, Any]) -> float:
    """The rate of `make_pairs` with cropping. The time of a short run, to start the processes, is subtracted."""
    config = SamplerConfig(cache_bytes=1 << 28)
    seconds = []
    for pairs in (workers, workers + count):
        start = time.perf_counter()
        make_pairs([folder], pairs, shape, 0, workers, recipe, config)
        seconds.append(time.perf_counter() - start)
    return count / (seconds[1] - seconds[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per number of workers."""
    parser = new_parser(__doc__)
    parser.add_argument("--config", type=to_path, default=ROOT / "configs_degradation" / "video.yaml")
    parser.add_argument("--shape", type=int, nargs=3, default=(17, 256, 256), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--count", type=int, default=40, help="clips to make")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--input", type=to_path, help="folder of videos and pictures (default: two photographs)")
    flags = parser.parse_args(arguments)
    recipe, shape = plain_values(load_config(flags.config)), ClipShape(*flags.shape)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        if flags.input is None:
            photographs = need("skimage.data", "demo", "the measurement without --input")
            for name in ("astronaut", "coffee"):
                Image.fromarray(getattr(photographs, name)()).save(Path(folder) / f"{name}.png")
        for workers in flags.workers:
            rate = clips_per_second(flags.input or Path(folder), shape, flags.count, workers, recipe)
            size = f"{shape.frames} frames of {shape.height}x{shape.width}"
            print(f"{workers} processes, {size}: {rate:.2f} clips/s, {rate * shape.frames:.0f} frames/s")


if __name__ == "__main__":
    sys.exit(run_program(main))
