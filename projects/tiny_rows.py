"""What every stage of the tiny model is worth: PSNR and SSIM of each on degraded clips and photographs.

    python projects/degrade.py --input CLIPS --output LOW --seed 0 [--config configs_degradation/image.yaml]
    python projects/tiny_rows.py --run runs/tiny --truth CLIPS --low LOW [--frames 25] [--pictures DIR] --json rows.json

Conventions are those of `projects/evaluate.py`; clips are cut to their first frames, so that all stages see one window.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.config import load_config
from common.diffusion import Guidance
from common.logger import get_logger, set_up_logging
from common.seed import frame_noise
from data.training.model_range import to_model_range, upsample_to_model_range
from projects.degrade import read_clip
from projects.evaluation.frames import find_clips, read_frames
from projects.evaluation.measures import frame_scores
from projects.video_diffusion_sr.build import build_network, build_vae, seeded_prompts
from projects.video_diffusion_sr.color_fix import wavelet_reconstruction
from projects.video_diffusion_sr.infer import Prompts, Sampling, VideoDiffusionInfer

logger = get_logger(__name__)

SEED = 666


def stages(recipe, run: Path, scale: float, device: torch.device, steps: int) -> dict[str, VideoDiffusionInfer]:
    """The pipeline with each stage's transformer, by the row's name."""
    vae = build_vae(recipe.vae, run / "vae/export/vae.safetensors", device, torch.float32)
    prompts = Prompts(*seeded_prompts(recipe.dit.model.txt_in_dim))
    one, many = Sampling(1), Sampling(steps, Guidance(float(recipe.diffusion.cfg.scale)))
    rows = {
        f"diffusion, {steps} steps, guided": ("diffusion", many),
        f"diffusion, {steps} steps": ("diffusion", Sampling(steps)),
        "diffusion, 1 step": ("diffusion", one),
        "distilled, 2 steps": ("distill_2", Sampling(2)),
        "distilled, 1 step": ("distill_1", one),
        "adversarial, 1 step": ("adversarial", one),
        "fitted to one step": ("one_step", one),
    }
    found = {}
    for name, (folder, sampling) in rows.items():
        path = run / folder / "export/dit.safetensors"
        if path.is_file():
            dit = build_network(recipe.dit.model, path, device, torch.float32)
            found[name] = VideoDiffusionInfer(vae, dit, prompts, sampling, scale)
    return found


def whole(pipeline: VideoDiffusionInfer, clip: Tensor) -> Tensor:
    """[3, T, H, W] -> latents [t, h, w, c]."""
    return pipeline.encode_slice(clip, pipeline.vae.new_memory(keep=False), None)


def restore(pipeline: VideoDiffusionInfer, low: Tensor) -> Tensor:
    """An enlarged low-quality clip [3, T, H, W] -> restored, colours fixed."""
    latents = whole(pipeline, low)
    noise = frame_noise(SEED, "start", 0, *latents.shape[:3], latents.shape[3])
    restored = pipeline.sample(pipeline.condition(latents, noise), noise)
    frames = pipeline.decode_slice(restored, pipeline.vae.new_memory(keep=False)).float()
    return wavelet_reconstruction(frames.transpose(0, 1), low.transpose(0, 1)).transpose(0, 1)


def padded(clip: Tensor, multiple: int) -> Tensor:
    """[3, T, H, W] with mirrored rows and columns at the end."""
    bottom, right = -clip.shape[-2] % multiple, -clip.shape[-1] % multiple
    return F.pad(clip, (0, right, 0, bottom), mode="reflect")


def to_bytes(clip: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    return ((clip + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def compare(result: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean PSNR and SSIM over the frames."""
    return tuple(np.mean([frame_scores(a, b, 0) for a, b in zip(result, truth, strict=True)], axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--low", type=Path, required=True)
    parser.add_argument("--config", default="configs_tiny/main.yaml")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", help="clips whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth clip, by name")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="upper left part of every frame alone")
    args = parser.parse_args()
    set_up_logging()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = load_config(args.config)
    pipelines = stages(recipe, args.run, float((args.run / "scaling_factor").read_text()), device, args.steps)
    truths, lows = find_clips(args.truth), find_clips(args.low)
    jobs: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    for name in sorted(truths)[:: args.every]:
        if args.only and args.only not in name:
            continue
        truth = torch.from_numpy(read_clip(truths[name], 4)[0][: args.frames])
        low = torch.from_numpy(
            np.stack([frame for _, frame in zip(range(args.frames), read_frames(lows[name]), strict=False)])
        )
        large = upsample_to_model_range(low.to(device), *truth.shape[1:3])  # 3 T H W
        if args.crop:
            truth, large = truth[:, : args.crop[0], : args.crop[1]], large[..., : args.crop[0], : args.crop[1]]
        height, width = truth.shape[1:3]
        outputs = {"bicubic": large}
        with torch.inference_mode():
            first = next(iter(pipelines.values()))
            latents = whole(first, padded(to_model_range(truth.to(device)), 8))
            outputs["VAE"] = first.decode_slice(latents, first.vae.new_memory(keep=False)).float()
            for row, pipeline in pipelines.items():
                outputs[row] = restore(pipeline, padded(large, 8))
        for row, clip in outputs.items():
            jobs[row, name] = to_bytes(clip[..., :height, :width]), truth.numpy()
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            shown = [jobs[row, name][0][len(truth) // 2] for row in outputs] + [truth[len(truth) // 2].numpy()]
            half = (len(shown) + 1) // 2
            shown += [np.zeros_like(shown[0])] * (2 * half - len(shown))
            sheet = np.concatenate([np.concatenate(part, 1) for part in (shown[:half], shown[half:])], 0)
            Image.fromarray(sheet).save(args.pictures / f"{name}.webp", quality=85)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        scores = dict(zip(jobs, pool.map(compare, *zip(*jobs.values(), strict=True)), strict=True))
    report = {}
    for row in dict.fromkeys(row for row, _ in jobs):
        own = {name: scores[r, name] for r, name in jobs if r == row}
        psnr, ssim = np.mean(list(own.values()), axis=0)
        report[row] = {
            "psnr": float(psnr),
            "ssim": float(ssim),
            "clips": {k: list(map(float, v)) for k, v in own.items()},
        }
        logger.info("%-30s %6.2f dB  %.4f", row, psnr, ssim)
    args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
