"""Predicted memory and time of each training stage, by formula, for planning a job on a cluster.

    python projects/training_cost.py --config configs_3b/main.yaml --gpus 1 8 64 --clip 21x720x1280
    python projects/training_cost.py --gpus 8 --clip 101x720x1280 --sp_size 8 --keeps products

Every number follows from the formulas of docs/training.md and the assumptions given as flags.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from common.config import create_object, load_config
from common.distributed.fsdp import STRATEGIES
from data.video.framing import latent_frames
from models.nadit.discriminator import Discriminator
from models.nadit.recompute import KEPT
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.communication import TEXT_TOKENS
from projects.video_diffusion_sr.flag_types import clip_shape
from projects.video_diffusion_sr.flops import linear_weights, transformer_flops
from projects.video_diffusion_sr.training.cost import Gpu, Sharding, StepTime, memory, stage_costs, step_time

GB = 1e9
HOST_BOUND = (
    "* Bound by the host that issues the operators, not by the GPU: as one host was measured; others differ, and a "
    "larger batch costs little more."
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config", default="configs_3b/main.yaml")
    add("--keeps", choices=sorted(KEPT), help="instead of the model's dit.gradient_checkpoint_keeps")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64])
    add("--strategy", choices=sorted(STRATEGIES), help="instead of the model's dit.fsdp.sharding_strategy")
    add("--per_host", type=int, default=8, help="GPUs that share a model under hybrid sharding")
    add(
        "--clip",
        type=clip_shape,
        default="21x720x1280",
        help="frames x height x width of the one clip on each GPU, or group of them",
    )
    add("--sp_size", type=int, default=1, help="GPUs that share a clip (default: %(default)s)")
    add("--peak", type=float, default=989, help="TFLOP/s of the GPU in bfloat16, as its maker states")
    add("--bandwidth", type=float, default=3.35, help="TB/s of its memory, as its maker states")
    add("--utilisation", type=float, default=Gpu.reached, help="share of both (default: %(default)s, as measured)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one Markdown table."""
    args = parse(arguments)
    recipe = create_object(load_config(args.config))
    with torch.device("meta"):
        dit, _ = recipe.build_dit()
        discriminator = Discriminator(dit)
        vae = sum(p.numel() for p in recipe.build_untrained_vae().parameters())
    recompute = replace(recipe.recompute, keeps=args.keeps or recipe.recompute.keeps)
    sharded, hybrid, reshard_after_forward = STRATEGIES[args.strategy or recipe.strategy]
    frames, height, width = args.clip
    space = recipe.spatial_factor
    latent = (latent_frames(frames, recipe.temporal_factor), height // space, width // space)
    tokens = prod(n // p for n, p in zip(latent, dit.config.patch_size, strict=True)) + TEXT_TOKENS
    once = transformer_flops(dit.config, [latent], [TEXT_TOKENS])
    linear = 2 * dit.config.num_layers * linear_weights(dit.config) * tokens
    sizes = (sum(p.numel() for p in dit.parameters()), sum(p.numel() for p in discriminator.parameters()))
    print(f"{args.config}: {tokens} tokens a clip, {once / 1e12:.0f} TFLOP a forward pass\n")
    print("| stage | GPUs | state | gathered | one block | inputs or gradients | GB a GPU | s a step | clips a day |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    gpu, found = Gpu(args.peak * 1e12, args.bandwidth * 1e12, args.utilisation), []
    for stage in stage_costs(*sizes, len(discriminator.heads), recompute, attention=1 - linear / once).values():
        time = step_time(stage, dit.config, once / args.sp_size, tokens / args.sp_size, gpu)
        found.append(time)
        for gpus in args.gpus:
            ranks = (min(gpus, args.per_host) if hybrid else gpus) if sharded else 1
            sharding = Sharding(ranks, min(args.sp_size, gpus), gpus == 1 or not reshard_after_forward)
            parts = memory(stage, dit.config, tokens, sharding, recompute, vae).values()
            columns = " | ".join(f"{part / GB:.0f}" for part in (*parts, sum(parts)))
            clips = gpus / sharding.clip * 86400 / time.seconds
            print(f"| {stage.name} | {gpus} | {columns} | {marked(time)} | {clips:,.0f} |")
    if any(time.host_bound for time in found):
        print(f"\n{HOST_BOUND}")
    return 0


def marked(time: StepTime) -> str:
    """The seconds as text, with a star if the host limits them."""
    return f"{time.seconds:.1f}{'*' if time.host_bound else ''}"


if __name__ == "__main__":
    sys.exit(run_program(main))
