"""Make low-quality versions of a folder, for evaluation: four times smaller, stored losslessly.

    python projects/degrade.py --input DIR --output DIR --seed S [--config configs_degradation/video.yaml]
        [--ground_truth DIR] [--clips_as png|mkv]

A clip becomes a folder of PNG frames (or one FFV1 file with `--clips_as mkv`), a picture a PNG; the restorer reads both
as they are. The degradation of a file depends on the seed and its name without folder, so a part of a set is degraded
as in the whole set. Sides that are not divisible by four are cropped at the right and at the bottom; `--ground_truth`
writes the cropped originals, with which the results are to be compared.
"""

import sys
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from common.config import load_config, plain_values
from common.logger import get_logger, set_up_logging
from data.degradation.pipeline import Degradation, build_degradation
from data.media import find_media, open_media
from data.media.sequence import clip_name, folder_of, is_sequence
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

logger = get_logger(__name__)

DEFAULT_CONFIG = ROOT / "configs_degradation" / "video.yaml"


def generator_for(seed: int, name: str) -> np.random.Generator:
    """The random generator of one file, from the seed of the set and the name of the file."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def read_clip(path: Path, divisor: int) -> tuple[np.ndarray, Fraction | None]:
    """All frames, uint8 [T, H, W, 3], cropped to sides that `divisor` divides, and the frame rate (None: a picture)."""
    with open_media(path) as reader:
        frames = [frame.pixels.permute(1, 2, 0).numpy() for frame in reader]
        rate = reader.info.frame_rate
        if reader.damage:
            logger.warning("%s", reader.damage)
    height, width = (side // divisor * divisor for side in frames[0].shape[:2])
    return np.stack([frame[:height, :width] for frame in frames]), rate


def write_clip(clip: np.ndarray, folder: Path, name: str, rate: Fraction | None, clips_as: str) -> Path:
    """Store uint8 [T, H, W, 3] without loss: a PNG for a picture, a folder of PNGs or an FFV1 file for a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    if rate is None:
        Image.fromarray(clip[0]).save(folder / f"{name}.png")
        return folder / f"{name}.png"
    if clips_as == "mkv":
        return _write_ffv1(clip, folder / f"{name}.mkv", rate)
    frames = folder / name
    frames.mkdir(exist_ok=True)
    for old in frames.glob("[0-9]" * 5 + ".png"):  # files of an earlier run with more frames
        old.unlink()
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(frames / f"{i:05d}.png")
    return frames


def _write_ffv1(clip: np.ndarray, path: Path, rate: Fraction) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "bgr0"  # RGB without loss
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    return path


def degrade_folder(
    source: Path, output: Path, seed: int, degrade: Degradation, ground_truth: Path | None, clips_as: str
) -> list[Path]:
    """Degrade every video and picture of a folder. Returns the paths of the results.

    Raises:
        ValueError: two results would have the same name, a result would replace an input, or the folder has no videos
            or pictures.
    """
    files, skipped = find_media(source, leave_out=output)
    for path, reason in skipped:
        logger.info("skipping %s: %s", path.name, reason)
    names = [clip_name(file) if is_sequence(file) else file.stem for file in files]
    if len(set(names)) < len(files):
        raise ValueError(f"{source} holds files that differ in their suffix alone; their results would share a name.")
    refuse_to_replace(source, files, output, ground_truth)
    written = []
    for file, name in tqdm(list(zip(files, names, strict=True)), desc="degrade", unit="file"):
        clip, rate = read_clip(file, degrade.config.scale)
        low = degrade(clip, generator_for(seed, file.name))
        written.append(write_clip(low, output, name, rate, clips_as))
        if ground_truth:
            write_clip(clip, ground_truth, name, rate, clips_as)
    return written


def refuse_to_replace(source: Path, files: Sequence[Path], output: Path, ground_truth: Path | None) -> None:
    """Raise ValueError if results would lie among the inputs or originals among the results: one replaces the other."""
    inputs = {source.resolve(), *(folder_of(file).resolve().parent for file in files)}
    for flag, folder in (("--output", output), ("--ground_truth", ground_truth)):
        if folder is not None and folder.resolve() in inputs:
            raise ValueError(f"{flag} {folder} is the folder of the input, which it would replace; name another.")
    if ground_truth is not None and ground_truth.resolve() == output.resolve():
        raise ValueError(f"--ground_truth {ground_truth} is --output too, one would replace the other; name another.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags and degrade the folder. Returns the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("--input", type=to_path, required=True, help="folder of videos and pictures, or one file")
    parser.add_argument("--output", type=to_path, required=True, help="where the low-quality versions go")
    parser.add_argument("--seed", type=int, default=0, help="of the whole set")
    parser.add_argument("--config", type=to_path, default=DEFAULT_CONFIG, help="the recipe")
    parser.add_argument("--ground_truth", type=to_path, help="also write the cropped originals here")
    parser.add_argument("--clips_as", choices=("png", "mkv"), default="png", help="folders of PNG frames, or FFV1")
    flags = parser.parse_args(arguments)
    set_up_logging()
    recipe = plain_values(load_config(flags.config))
    degrade = build_degradation(recipe)
    written = degrade_folder(flags.input, flags.output, flags.seed, degrade, flags.ground_truth, flags.clips_as)
    logger.info("%d files in %s", len(written), flags.output)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
