"""Measures of results against ground truth: per clip, per set and in the mean, with 95 % intervals.

    python projects/evaluate.py --results DIR --ground_truth DIR [--baseline DIR] [--measures flicker vmaf ...]
    python projects/evaluate.py --results OURS THEIRS --ground_truth BENCHMARK --lpips_weights lpips.safetensors

Each folder holds videos, pictures, or folders of numbered frames; a benchmark may hold one folder for each of its
sets, with videos or folders of frames in it. Clips are matched by name without suffix. With several --results a
Markdown table is printed as the papers print it: sets and measures down, methods across.

Conventions: 8-bit frames, whole but for `--crop` pixels at every border; each frame is measured by itself, then the
mean over the frames of a clip, then over clips. PSNR of equal frames counts as 100 dB. What each measure is computed
from stands in projects/evaluation/measures.py: PSNR and SSIM on RGB, psnr_y and ssim_y on luma, as many papers have it
without saying so. Intervals come from 10,000 draws of clips with replacement; those of a gain over --baseline are of
the differences clip by clip. Compare losslessly stored frames where you can: a lossy video in between is measured too.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.logger import set_up_logging
from common.standard_output import write_output
from projects.evaluation.distribution import distribution_measures
from projects.evaluation.frames import enlarge, find_clips, read_frames
from projects.evaluation.measures import WITHOUT_WEIGHTS, Measures, cropped
from projects.evaluation.tables import Score, listing, paper_table, report
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

FRAMES_BETWEEN = 8  # every eighth frame of a clip is used for the measures of a set


def frame_pairs(
    name: str, result: Path, truth: Path, crop: int, may_enlarge: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frames of two clips in pairs, uint8 [H, W, 3] each, with one pair in memory at a time.

    Raises:
        ValueError: the numbers of frames or the sizes differ; with `may_enlarge`, a smaller result is enlarged.
    """
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
        yield cropped(a, crop), cropped(b, crop)


def score_clip(
    name: str, result: Path, truth: Path, crop: int, may_enlarge: bool, measures: Measures, device: str
) -> Score:
    """Compare two clips, see `frame_pairs`."""
    return Score(name, *measures.of_clip(frame_pairs(name, result, truth, crop, may_enlarge), device))


def score_folder(
    results: Path,
    truths: Path,
    crop: int,
    workers: int,
    measures: Measures,
    device: str = "cpu",
    may_enlarge: bool = False,
) -> list[Score]:
    """Score every clip of the ground truth, `workers` clips at a time.

    Raises:
        ValueError: a clip has no result, with the names.
    """
    found, wanted = find_clips(results), find_clips(truths)
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"{results} has no result for {', '.join(missing)}.")
    columns = zip(*[(n, found[n], p, crop, may_enlarge, measures, device) for n, p in wanted.items()], strict=True)
    progress = partial(tqdm, total=len(wanted), desc=results.name, unit="clip", leave=False)
    if workers <= 1 or device != "cpu":
        return list(progress(map(score_clip, *columns)))
    context, processes = get_context("spawn"), min(workers, len(wanted))
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(progress(pool.map(score_clip, *columns)))


def of_set(results: Path, truths: Path, crop: int, device: str) -> dict[str, float]:
    """Compute the measures of the whole set from every eighth frame; see `projects.evaluation.distribution`."""
    found = find_clips(results)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for name, truth in find_clips(truths).items():
        pairs += islice(frame_pairs(name, found[name], truth, crop, False), None, None, FRAMES_BETWEEN)
    return distribution_measures([result for result, _ in pairs], [truth for _, truth in pairs], device)


def conventions(crop: int, measures: Measures) -> dict[str, Any]:
    """The conventions of the measures, for the JSON."""
    return {
        "channels": "RGB; psnr_y, ssim_y, laplacian: luma of BT.601; vmaf: luma of BT.709",
        "crop": crop,
        "mean": "frames, then clips",
        "data_range": 255,
        "measures": list(measures.names),
        "intervals": "95 %, clips drawn with replacement 10,000 times",
    }


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = new_parser(__doc__)
    made.add_argument(
        "--input",
        "--results",
        dest="results",
        type=to_path,
        required=True,
        nargs="+",
        help="what to evaluate; several are compared",
    )
    made.add_argument("--ground_truth", type=to_path, required=True, help="what it should have been")
    made.add_argument(
        "--baseline",
        type=to_path,
        help="other results to compare with; smaller clips (the input) are enlarged by bicubic",
    )
    made.add_argument("--crop", type=int, default=0, help="pixels left out at every border")
    names = ", ".join(WITHOUT_WEIGHTS[2:])
    made.add_argument("--measures", nargs="+", default=[], metavar="NAME", help=f"beside PSNR and SSIM: {names}")
    made.add_argument(
        "--distribution",
        action="store_true",
        help="also whether the set of results looks like truths: two-sample test by a fresh CNN, sliced Wasserstein "
        "distance, spectra (at least four frames)",
    )
    made.add_argument("--lpips_weights", type=to_path, help="measure LPIPS; made by projects/perceptual_weights.py")
    made.add_argument("--dists_weights", type=to_path, help="measure DISTS; made by projects/perceptual_weights.py")
    made.add_argument("--device", default="cpu", help="where networks of measures are computed: cpu or cuda")
    made.add_argument("--output", "--json", dest="json", type=to_path, help="write the figures here too")
    made.add_argument("--workers", type=int, default=math.ceil((os.cpu_count() or 1) / 2), help="clips at a time")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, print the table and write the JSON. Returns the exit status."""
    flags = parser().parse_args(arguments)
    set_up_logging()
    measures = Measures.chosen(flags.lpips_weights, flags.dists_weights, flags.measures)
    common = (flags.ground_truth, flags.crop, flags.workers, measures, flags.device)
    methods = {str(folder): score_folder(folder, *common) for folder in flags.results}
    baseline = score_folder(flags.baseline, *common, may_enlarge=True) if flags.baseline else None
    set_of = (flags.ground_truth, flags.crop, flags.device)
    whole = {str(folder): of_set(folder, *set_of) for folder in flags.results if flags.distribution}
    stated = {"conventions": conventions(flags.crop, measures)}
    if len(methods) == 1:
        scores = next(iter(methods.values()))
        lines = [listing(scores, baseline)]
        stated |= report(scores, baseline)
    else:
        lines = [paper_table(({"baseline": baseline} if baseline else {}) | methods)]
        stated["methods"] = {name: report(scores, baseline) for name, scores in methods.items()}
    for name, values in whole.items():
        lines.append(f"{name}, whole set: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if whole:
        stated["distribution"] = whole
    if flags.json:  # first, because a reader of the table may go before its end
        flags.json.write_text(json.dumps(stated, indent=1) + "\n")
    write_output("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
