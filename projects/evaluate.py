"""PSNR and SSIM of results against ground truth, per clip and in the mean.

    python projects/evaluate.py --results DIR --ground_truth DIR [--baseline DIR] [--crop N] [--json out.json]

Each folder holds videos, pictures, or folders of numbered frames; they are matched by name without suffix. Conventions:
8-bit RGB, all three channels at once, whole frames less `--crop` pixels at every border; each frame is measured by
itself, then the mean over the frames of a clip, then over clips. PSNR of equal frames counts as 100 dB. SSIM has a
Gaussian window of sigma 1.5 and population covariances, as in Wang et al. 2004, on each channel, then averaged. Both
come from scikit-image. Compare losslessly stored frames where you can: a lossy video in between is measured too.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.extras import MissingExtra, need
from data.media import is_probably_media, open_media

IDENTICAL_DB = 100.0
SSIM_WINDOW = 11  # pixels, of the Gaussian that scikit-image cuts at 3.5 sigma
METRICS = ("psnr", "ssim")


@dataclass(frozen=True)
class Score:
    """The means of one clip: PSNR in dB, SSIM up to 1."""

    name: str
    frames: int
    psnr: float
    ssim: float


def find_clips(folder: Path) -> dict[str, Path]:
    """Clips of a folder by name without suffix: files, and folders that hold frames.

    Raises:
        ValueError: the folder is missing or empty, or two entries share a name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    clips: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not frame_files(entry):
            continue
        if entry.is_file() and not is_probably_media(entry):
            continue
        name = entry.name if entry.is_dir() else entry.stem
        if name in clips:
            raise ValueError(f"{folder} holds both {clips[name].name} and {entry.name}: one name stands for one clip.")
        clips[name] = entry
    if not clips:
        raise ValueError(f"{folder} holds no video, picture or folder of frames.")
    return clips


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names."""
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and is_probably_media(f)]
    return sorted(files, key=lambda f: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", f.name)])


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a clip, one at a time: uint8 [H, W, 3]."""
    for file in frame_files(path) if path.is_dir() else [path]:
        with open_media(file) as reader:
            for frame in reader:
                yield frame.pixels.permute(1, 2, 0).numpy()
            if reader.damage:
                print(reader.damage, file=sys.stderr)


def enlarge(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with antialiasing, as the restorer enlarges its input: uint8 [h, w, 3] to uint8 [height, width, 3]."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    large = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return large[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def frame_scores(result: np.ndarray, truth: np.ndarray, crop: int) -> tuple[float, float]:
    """PSNR in dB and SSIM of one frame, uint8 [H, W, 3] each, without `crop` pixels at every border."""
    if crop:
        result, truth = (frame[crop:-crop, crop:-crop] for frame in (result, truth))
    if min(truth.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"frames need {SSIM_WINDOW} pixels a side after the crop, not {truth.shape[1]}x{truth.shape[0]}."
        )
    metrics = skimage_metrics()
    equal = np.array_equal(result, truth)
    psnr = IDENTICAL_DB if equal else metrics.peak_signal_noise_ratio(truth, result, data_range=255)
    ssim = metrics.structural_similarity(
        truth, result, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    return float(psnr), float(ssim)


def skimage_metrics() -> ModuleType:
    """scikit-image's measures, which the base install leaves out; raises MissingExtra without them."""
    return need("skimage.metrics", "eval", "evaluation")


def score_clip(name: str, result: Path, truth: Path, crop: int, may_enlarge: bool) -> Score:
    """Compare two clips frame by frame, holding one pair of frames at a time.

    Raises:
        ValueError: the numbers of frames or the sizes differ; with `may_enlarge`, the result may be smaller.
    """
    pairs = []
    for i, (a, b) in enumerate(zip_longest(read_frames(result), read_frames(truth))):
        if a is None or b is None:
            short, long = (result, truth) if a is None else (truth, result)
            raise ValueError(f"{name}: {short} ends after {i} frames, {long} goes on; both must have the same number.")
        if may_enlarge and a.shape[0] < b.shape[0] and a.shape[1] < b.shape[1]:
            a = enlarge(a, *b.shape[:2])
        if a.shape != b.shape:
            raise ValueError(
                f"{name}: {result} is {a.shape[1]}x{a.shape[0]}, the ground truth {b.shape[1]}x{b.shape[0]}; restore "
                "at the ground truth's size, or crop it as projects/degrade.py --ground_truth does."
            )
        pairs.append(frame_scores(a, b, crop))
    psnr, ssim = np.mean(pairs, axis=0)
    return Score(name, len(pairs), float(psnr), float(ssim))


def score_folder(results: Path, truths: Path, crop: int, workers: int, may_enlarge: bool = False) -> list[Score]:
    """Score every clip of the ground truth, `workers` clips at a time.

    Raises:
        ValueError: a clip has no result, with the names.
    """
    found, wanted = find_clips(results), find_clips(truths)
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"{results} has no result for {', '.join(missing)}.")
    columns = zip(*[(n, found[n], path, crop, may_enlarge) for n, path in wanted.items()], strict=True)
    progress: Callable = lambda scores: tqdm(scores, total=len(wanted), desc=results.name, unit="clip", leave=False)  # noqa: E731
    if workers <= 1:
        return list(progress(map(score_clip, *columns)))
    context, processes = get_context("spawn"), min(workers, len(wanted))
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(progress(pool.map(score_clip, *columns)))


def mean_of(scores: Sequence[Score]) -> Score:
    """The mean over clips; every clip counts the same, however long."""
    psnr, ssim = (float(np.mean([getattr(s, metric) for s in scores])) for metric in METRICS)
    return Score("mean", sum(s.frames for s in scores), psnr, ssim)


def table(scores: Sequence[Score], baseline: Sequence[Score] | None) -> str:
    """Lines for the terminal; with a baseline, its figures and the gain over it."""
    rows = [*scores, mean_of(scores)]
    base = [*baseline, mean_of(baseline)] if baseline else [None] * len(rows)
    width = max(len(row.name) for row in rows)
    heads = f"{'clip':<{width}}  frames    PSNR    SSIM"
    lines = [heads + ("   baseline PSNR    SSIM      gain dB    SSIM" if baseline else "")]
    for row, other in zip(rows, base, strict=True):
        line = f"{row.name:<{width}}  {row.frames:6d}  {row.psnr:6.2f}  {row.ssim:6.4f}"
        if other:
            line += f"{other.psnr:16.2f}  {other.ssim:6.4f}{row.psnr - other.psnr:+13.2f} {row.ssim - other.ssim:+7.4f}"
        lines.append(line)
    return "\n".join(lines)


def as_json(scores: Sequence[Score], baseline: Sequence[Score] | None, crop: int) -> dict:
    """The same as a mapping, with the conventions in words."""
    report = {
        "conventions": {"channels": "RGB", "crop": crop, "mean": "frames, then clips", "data_range": 255},
        "clips": [asdict(s) for s in scores],
        "mean": asdict(mean_of(scores)),
    }
    if baseline:
        best = mean_of(baseline)
        gain = {m: getattr(mean_of(scores), m) - getattr(best, m) for m in METRICS}
        report["baseline"] = {"clips": [asdict(s) for s in baseline], "mean": asdict(best)}
        report["gain"] = gain
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, print the table, write the JSON; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="what to judge")
    parser.add_argument("--ground_truth", type=Path, required=True, help="what it should have been")
    parser.add_argument(
        "--baseline", type=Path, help="other results to compare with; smaller clips (the input) are enlarged by bicubic"
    )
    parser.add_argument("--crop", type=int, default=0, help="pixels left out at every border")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--workers", type=int, default=math.ceil((os.cpu_count() or 1) / 2), help="clips at a time")
    flags = parser.parse_args(arguments)
    try:
        skimage_metrics()  # before processes are started for it
        scores = score_folder(flags.results, flags.ground_truth, flags.crop, flags.workers)
        baseline = None
        if flags.baseline:
            baseline = score_folder(flags.baseline, flags.ground_truth, flags.crop, flags.workers, may_enlarge=True)
    except (ValueError, OSError, MissingExtra) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(table(scores, baseline))
    if flags.json:
        flags.json.write_text(json.dumps(as_json(scores, baseline, flags.crop), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
