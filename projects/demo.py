"""See the whole program at work: a photograph becomes a moving clip, the clip is degraded, the tiny preset restores it.

    python projects/demo.py [--output demo_output] [--photo coffee] [--frames 25]

Nothing is downloaded: the photographs ship inside scikit-image, the tiny model inside this repository.
"""

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from common.config import load_config, plain_values
from common.extras import need
from common.logger import get_logger, set_up_logging
from data.degradation.pipeline import build_degradation
from data.media import MediaInfo, OutputOptions, open_media, open_writer
from data.pixel_range import model_to_uint8
from data.training.motion import MotionConfig, animate
from projects.evaluation.measures import psnr
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.cli import main as restore
from projects.video_diffusion_sr.comparison import FOLDER
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.presets import SEEDVR2_TINY

logger = get_logger(__name__)

SIZE = (256, 384)
SCALE = 4
RATE = Fraction(25)
PHOTOS = ("coffee", "astronaut", "rocket", "chelsea")
CAMERA = MotionConfig(pan=1.5, turn=0.15, zoom=0.003, scale=(1.0, 1.0), shake=0.6, still=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a clip, degrade it, restore it, and log the paths of all files."""
    p = new_parser(__doc__)
    p.add_argument("--output", type=to_path, default=Path("demo_output"), help="folder for everything (%(default)s)")
    p.add_argument("--photo", choices=PHOTOS, default=PHOTOS[0], help="which photograph to film (%(default)s)")
    p.add_argument("--frames", type=int, default=25, help="length of the clip at 25 frames a second (%(default)s)")
    p.add_argument("--seed", type=int, default=1, help="of the camera, the degradation and the restorer (%(default)s)")
    args = p.parse_args(arguments)
    if args.frames < 1:
        p.error(f"--frames {args.frames}: a clip needs at least one frame")
    set_up_logging()
    photograph = getattr(need("skimage.data", "demo", "the demo"), args.photo)()  # u8 [H, W, 3]
    generator = np.random.default_rng(args.seed)
    clean = animate(photograph, args.frames, *SIZE, generator, CAMERA)  # u8 [T, H, W, 3]
    config = plain_values(load_config(ROOT / "configs_degradation" / "video.yaml"))
    degraded = build_degradation(config)(clean, args.seed)  # u8 [T, H/4, W/4, 3]
    truth = write(clean, args.output / "ground_truth" / f"{args.photo}.mp4")
    source = write(degraded, args.output / "degraded" / f"{args.photo}.mp4")
    logger.info("filmed %s, degraded it to %dx%d, restoring it:", args.photo, SIZE[1] // SCALE, SIZE[0] // SCALE)

    flags = ["--video_path", source, "--output_dir", args.output / "restored", "--res_h", SIZE[0], "--res_w", SIZE[1]]
    code = restore(SEEDVR2_TINY, [*map(str, flags), "--seed", str(args.seed), "--overwrite", "--compare"])
    if code == 0:
        result = args.output / "restored" / source.name
        clean, bicubic = read(truth), np.stack([enlarged(frame) for frame in read(source)])  # as files, like the result
        logger.info("PSNR against the clean clip: bicubic %.2f dB, restored %.2f dB",
                    mean_psnr(clean, bicubic), mean_psnr(clean, read(result)))  # fmt: skip
        comparison = result.parent / FOLDER / source.name
        logger.info("\nclean       %s\ndegraded    %s\nrestored    %s", truth, source, result)
        logger.info("comparison  %s (bicubic | restored)", comparison)
        logger.info("stills      %s", comparison.with_suffix(".png"))
    return code


def write(clip: np.ndarray, path: Path) -> Path:
    """Write uint8 [T, H, W, 3] as a clip of 25 frames per second, with negligible compression."""
    info = MediaInfo(Path("a photograph"), "video", clip.shape[2], clip.shape[1], frame_rate=RATE)
    with open_writer(path, info, clip.shape[1:3], options=OutputOptions(crf=6)) as writer:
        writer.write(torch.from_numpy(clip).permute(0, 3, 1, 2), [i / RATE for i in range(len(clip))])
    return path


def read(path: Path) -> np.ndarray:
    """Read a clip: uint8 [T, H, W, 3]."""
    with open_media(path) as reader:
        return np.stack([frame.pixels.permute(1, 2, 0).numpy() for frame in reader])


def enlarged(frame: np.ndarray) -> np.ndarray:
    """Resize a degraded frame to the size of the result by bicubic interpolation, as the restorer does at its start."""
    pixels = torch.from_numpy(frame).permute(2, 0, 1)
    return model_to_uint8(Geometry(SIZE, 1).to_output(pixels, "cpu")).permute(1, 2, 0).numpy()


def mean_psnr(truth: np.ndarray, other: np.ndarray) -> float:
    """The mean PSNR in dB over the frames of two clips, uint8 [T, H, W, 3] each."""
    return float(np.mean([psnr(a, b) for a, b in zip(other, truth, strict=True)]))


if __name__ == "__main__":
    sys.exit(run_program(main))
