"""Compare ways to follow `--strength`: the table of docs/decisions/0012-strength.md.

    python projects/strength_study.py --input DIR [--clips 3] [--frames 5] [--damage light medium heavy]

Clips of the folder are cropped, degraded by the recipe of configs_degradation/video.yaml with its magnitudes reduced,
restored by the tiny model, and mixed with their resized input by every candidate at strengths 0 to 1. All candidates
give the resized input at 0 and the restored clip at 1; what they do between is measured against the ground truth.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from common.config import load_config, plain_values
from common.diffusion import EulerSampler
from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.seed import frame_noise
from data.degradation.pipeline import build_degradation
from data.media import Frame, MediaInfo
from data.pixel_range import model_to_uint8
from projects.evaluation.frames import find_clips, read_frames
from projects.evaluation.measures import Measures, luma
from projects.program import new_parser, run_program
from projects.video_diffusion_sr import finishing, restore, to_latents
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.strength import EXPONENTS, mixed

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DAMAGES = {"light": (0.1, 1), "medium": (0.3, 2), "heavy": (1.0, 4)}  # (fraction of the recipe's magnitudes, scale)
MEASURES = {"psnr": 2, "ssim": 4, "flicker": 2, "laplacian": 3, "ghosting": 3}  # measure -> number of decimals
EDGE = 8.0  # smallest gradient of luma at an edge, in levels per pixel
NEAR = 5  # size in pixels of the dilation of edges; edges within half of it count as one edge
STRONGEST_NOISE = 0.4  # noise on the condition at strength 0, as a fraction of the schedule


@dataclass(frozen=True)
class Material:
    """The clips and latents that candidates mix: float32 [T, 3, h, w] in about [-1, 1], and latents [t, h, w, c].

    given: the resized input.
    result: the restored clip.
    latents: latents of the input.
    restored: restored latents.
    decoded: the input's latents, decoded and finished.
    finish: decodes latents and applies the colour fix.
    infer: the networks.
    seed: seed of the noise.
    """

    given: Tensor
    result: Tensor
    latents: Tensor
    restored: Tensor
    decoded: Tensor
    finish: Callable[[Tensor], Tensor]
    infer: VideoDiffusionInfer
    seed: int


def by_pixel(m: Material, s: float) -> Tensor:
    """Interpolate linearly between the pixels of input and result."""
    return torch.lerp(m.given, m.result, s)


def by_band(exponents: Sequence[float]) -> Callable[[Material, float], Tensor]:
    """Weight each frequency band of the difference by its own power of the strength."""
    return lambda m, s: mixed(m.given, m.result, s, exponents)


def by_latent(m: Material, s: float) -> Tensor:
    """Interpolate latents and decode; the VAE's error of the input is added back with the weight 1 - strength."""
    return m.finish(torch.lerp(m.latents, m.restored, s)) + (1 - s) * (m.given - m.decoded)


def by_start(m: Material, s: float) -> Tensor:
    """Start sampling from a mixture of noise and the input's latents instead of noise."""
    infer, shape = m.infer, tuple(m.latents.shape)
    start, noise = (frame_noise(m.seed, kind, 0, *shape) for kind in ("start", "condition"))
    condition = infer.condition(m.latents, noise)
    early = other_sampling(infer)
    early.sampler = EulerSampler(infer.schedule, torch.tensor([s * infer.sampling.T]), infer.sampling.prediction_type)
    restored = early.sample(condition, torch.lerp(m.latents, start, s))
    return m.finish(restored) + (1 - s) * (m.given - m.decoded)


def by_condition_noise(m: Material, s: float) -> Tensor:
    """Add noise to the condition, more for lower strengths, so that the network adds less certain detail."""
    infer, shape = m.infer, tuple(m.latents.shape)
    start, noise = (frame_noise(m.seed, kind, 0, *shape) for kind in ("start", "condition"))
    noised = other_sampling(infer, condition_noise=(1 - s) * STRONGEST_NOISE)
    return m.finish(noised.sample(noised.condition(m.latents, noise), start))


def other_sampling(infer: VideoDiffusionInfer, **changes: Any) -> VideoDiffusionInfer:
    """The same networks with changed sampling settings."""
    sampling = replace(infer.sampling, **changes)
    return VideoDiffusionInfer(infer.vae, infer.dit, infer.prompts, sampling, infer.scaling_factor, None, infer.stages)


CANDIDATES: dict[str, Callable[[Material, float], Tensor]] = {
    "pixel": by_pixel,
    "bands, fine first": by_band(EXPONENTS),
    "bands, coarse first": by_band(EXPONENTS[::-1]),
    "latent": by_latent,
    "start": by_start,
    "condition noise": by_condition_noise,
}
RESAMPLED = ("start", "condition noise")  # they sample again, so they are only measured at strength 0.5
HALF = (0.0, 0.5, 1.0)


def material_of(clean: np.ndarray, degraded: np.ndarray, restorer: Restorer) -> Material:
    """Restore a degraded clip, uint8 [T, H, W, 3], at the size of `clean`, and return all that candidates mix."""
    frames = [Frame.of_rgb(torch.from_numpy(f).permute(2, 0, 1), Fraction(i, 25)) for i, f in enumerate(degraded)]
    _, height, width, _ = degraded.shape
    info = MediaInfo(Path("clip"), "video", width, height, frame_rate=Fraction(25), frame_count_hint=len(frames))
    restorer = replace(restorer, geometry=replace(restorer.geometry, res=clean.shape[1:3]))
    progress = ProgressBar("", None, show=False)
    restorer.apply_plan(info)
    rows, times = restorer.rows(info), [frame.time for frame in frames]
    prepared = to_latents.prepare(iter(frames), restorer, rows)
    latents = torch.cat(list(to_latents.encode(prepared, restorer.latent_size(info), restorer, rows, progress)))
    restored = torch.cat(list(restore.sample(iter([latents]), restorer, progress)))
    given = torch.stack([restorer.geometry.to_output(frame.pixels, "cpu") for frame in frames])
    factor = restorer.infer.vae.temporal_factor

    def finish(z: Tensor) -> Tensor:
        memory, step, decoded = restorer.infer.new_memory(rows.exchange), restorer.slice_frames // factor, []
        for latents_of_slice in z.split(step):
            decoded.append(restorer.infer.decode_slice(latents_of_slice, memory))
        clip = torch.cat(decoded, dim=1)[:, : len(times)]
        return finishing.finish(clip, given, ResultOptions())

    return Material(given, finish(restored), latents, restored, finish(latents), finish, restorer.infer, restorer.seed)


def with_magnitudes(recipe: Mapping[str, Any], share: float, scale: int) -> dict[str, Any]:
    """The recipe with every range of magnitudes reduced to the fraction `share` at its mild end, and this `scale`."""

    def reduced(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {k: reduced(v, k if k != "range" else key) for k, v in value.items()}
        if key in ("sigma", "poisson_scale") and isinstance(value, list):
            return [value[0], value[0] + share * (value[1] - value[0])]
        if key in ("quality", "bits_per_frame") and isinstance(value, list):
            low, high = value[1] - share * (value[1] - value[0]), value[1]
            return [int(low), int(high)] if key == "bits_per_frame" else [low, high]
        if key == "scale" and isinstance(value, list):
            return [1 + share * (end - 1) for end in value]
        return value

    return {**reduced({k: v for k, v in recipe.items() if k != "scale"}), "scale": scale}


def ghosting(mixed: np.ndarray, given: np.ndarray, result: np.ndarray) -> float:
    """A measure of double images in [0, 1]: how visible the edges of only the input and of only the result both are.

    For the edges that only one of the two pictures has, it computes the fraction of their gradient that the mixture
    keeps, and returns the smaller of both fractions. A double image keeps half of both; a mixture that equals one of
    the pictures at every edge keeps only those of that picture.
    """
    slopes = [slope(frame) for frame in (given, result, mixed)]
    near = [cv2.dilate((s > EDGE).astype(np.uint8), np.ones((NEAR, NEAR))) > 0 for s in slopes[:2]]
    shares = []
    for one, other in ((0, 1), (1, 0)):
        alone = (slopes[one] > EDGE) & ~near[other]
        if alone.sum() < 20:
            return 0.0
        excess = slopes[one][alone] - slopes[other][alone]
        kept = (slopes[2][alone] - slopes[other][alone]) / excess
        shares.append(float(np.clip(kept, 0, 1).mean()))
    return min(shares)


def slope(frame: np.ndarray) -> np.ndarray:
    """The length of the gradient of luma in levels per pixel."""
    y = luma(frame)
    return np.hypot(cv2.Sobel(y, cv2.CV_64F, 1, 0, scale=0.25), cv2.Sobel(y, cv2.CV_64F, 0, 1, scale=0.25))


def as_frames(clip: Tensor) -> np.ndarray:
    """Convert [T, 3, h, w] in about [-1, 1] to uint8 [T, h, w, 3]."""
    return model_to_uint8(clip).permute(0, 2, 3, 1).numpy()


def measure(name: str, s: float, m: Material, clean: np.ndarray) -> dict[str, float]:
    """Measure one candidate at one strength."""
    ends = {0.0: m.given, 1.0: m.result}
    mixed = as_frames(ends[s] if s in ends else CANDIDATES[name](m, s))
    given, result = as_frames(m.given), as_frames(m.result)
    measures = Measures.chosen(more=("flicker", "laplacian"))
    _, values = measures.of_clip(zip(mixed, clean, strict=True))
    ghosts = [ghosting(*frames) for frames in zip(mixed, given, result, strict=True)]
    return {**values, "ghosting": float(np.mean(ghosts))}


def read_clip(path: Path, frames: int, height: int, width: int) -> np.ndarray:
    """Read the first frames, resized and cropped around the centre: uint8 [T, height, width, 3]."""
    clip = []
    for frame, _ in zip(read_frames(path), range(frames), strict=False):
        scale = max(height / frame.shape[0], width / frame.shape[1])
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
        clip.append(frame[top : top + height, left : left + width])
    return np.stack(clip)


def study(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the study. Returns rows with clip, damage, candidate, strength and the measured values."""
    recipe = plain_values(load_config(ROOT / "configs_degradation" / "video.yaml"))
    rows = []
    with process_group("cpu") as process:
        restorer = build(SEEDVR2_TINY, Request(res=(flags.height, flags.width)), Parallel(process))
        for name, path in list(find_clips(flags.input).items())[: flags.clips]:
            clean = read_clip(path, flags.frames, flags.height, flags.width)
            for damage in flags.damage:
                degraded = build_degradation(with_magnitudes(recipe, *DAMAGES[damage]))(clean, flags.seed)
                material = material_of(clean, degraded, restorer)
                for candidate in CANDIDATES:
                    for s in HALF if candidate in RESAMPLED else STRENGTHS:
                        values = measure(candidate, s, material, clean)
                        rows.append({"clip": name, "damage": damage, "candidate": candidate, "strength": s, **values})
                if flags.rows:  # written after each row, because the study takes long
                    flags.rows.write_text(json.dumps(rows))
                print(f"{name}, {damage}", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a Markdown table of the means over clips for each damage, candidate and strength."""
    lines = ["| damage | candidate | strength | " + " | ".join(MEASURES) + " |", "| --- " * (3 + len(MEASURES)) + "|"]
    for damage in dict.fromkeys(row["damage"] for row in rows):
        for candidate in CANDIDATES:
            for s in STRENGTHS[1:-1] if candidate != "pixel" else STRENGTHS:
                chosen = [r for r in rows if (r["damage"], r["candidate"], r["strength"]) == (damage, candidate, s)]
                if chosen:
                    means = " | ".join(f"{np.mean([r[m] for r in chosen]):.{d}f}" for m, d in MEASURES.items())
                    lines.append(f"| {damage} | {candidate} | {s:g} | {means} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    p = new_parser(__doc__)
    p.add_argument("--input", type=to_path, required=True, help="folder of clean clips")
    p.add_argument("--clips", type=int, default=3)
    p.add_argument("--frames", type=int, default=5)
    p.add_argument("--height", type=int, default=112)
    p.add_argument("--width", type=int, default=160)
    p.add_argument("--seed", type=int, default=3)
    p.add_argument("--damage", nargs="+", choices=DAMAGES, default=list(DAMAGES))
    p.add_argument("--rows", type=to_path, help="write all figures here as JSON")
    flags = p.parse_args(arguments)
    print(table(study(flags)))


if __name__ == "__main__":
    sys.exit(run_program(main))
