"""Memory and time of each training stage, computed, not measured: what to expect before a cluster is booked.

    python projects/training_cost.py --config configs_3b/main.yaml --gpus 1 8 64 --clip 21x720x1280

Every number follows from the formulas of docs/training.md and the assumptions given as flags.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from common.config import create_object, load_config
from common.distributed.fsdp import STRATEGIES
from models.nadit.config import NaDiTConfig
from models.nadit.discriminator import Discriminator
from projects.video_diffusion_sr.training.flops import forward_flops

GB = 1e9
TEXT_TOKENS = 58  # of the released positive embedding
TRAINED, AVERAGED, USED = 16, 4, 2  # bytes a parameter: weight, gradient and two moments; its average; a teacher's
GATHERED = 2  # bytes a parameter in bfloat16
# Bytes a token and channel that a backward pass finds kept, counted by hooks on saved tensors of the 3B's widths in
# bfloat16 on a CPU: inside of one block, and by each of the discriminator's heads. Fused kernels may keep less.
BLOCK_BYTES, HEAD_BYTES = 70, 16
VAE_BYTES = 2  # a parameter of the VAE, whole on every GPU


@dataclass(frozen=True)
class Stage:
    """passes: of the transformer in a step, in forward passes, what checkpointing computes again included.
    versions: of the batch that one backward pass holds. heads: of the discriminator, whose insides are all kept.
    averaged, trained, used: parameters."""

    name: str
    passes: float
    versions: int
    averaged: int
    trained: int
    used: int
    heads: int = 0


def stages(transformer: int, discriminator: int, heads: int, share: float) -> list[Stage]:
    """Networks and passes of each stage; arguments are numbers of parameters, of heads, and the share of the blocks
    that gradient checkpointing computes again."""
    trained = 3 + share  # forward, a backward pass of twice its work, and what is computed again
    return [
        Stage("diffusion", trained, 1, transformer, transformer, 0),
        Stage("distill", 2 + trained, 1, transformer, transformer, transformer),
        # Discriminator's turn: generate, judge four; generator's: generate, judge real, judge generated.
        Stage("adversarial", 2 + 6 * trained, 4, transformer, transformer + discriminator, 0, heads),
    ]


def memory(
    stage: Stage, config: NaDiTConfig, tokens: int, ranks: int, whole: bool, share: float, vae: int
) -> tuple[float, float, float]:
    """Bytes on each of `ranks` GPUs that share the state: state, gathered weights, activations.

    Args:
        whole: gathered weights stay until the backward pass is done; else two blocks of them are there at a time.
        share: of the blocks whose insides are computed again, one at a time; those of the others are kept.
        vae: its parameters.
    """
    state = (TRAINED * stage.trained + AVERAGED * stage.averaged + USED * stage.used) / ranks + VAE_BYTES * vae
    stream = 2 if ranks > 1 else 4  # a lone GPU computes under autocast, whose residual stream is float32
    insides = max(1, round(config.num_layers * (1 - share)))
    each = stream * config.num_layers + BLOCK_BYTES * insides + HEAD_BYTES * stage.heads
    gathered = GATHERED * (stage.trained + stage.used) * (1 if whole else 2 / config.num_layers)
    return state, gathered, each * tokens * stage.versions * config.dim


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", default="configs_3b/main.yaml")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64])
    add("--strategy", choices=sorted(STRATEGIES), help="instead of the model's dit.fsdp.sharding_strategy")
    add("--per_host", type=int, default=8, help="GPUs that share a model under hybrid sharding")
    add("--clip", default="21x720x1280", help="frames x height x width of the one clip on each GPU")
    add("--peak", type=float, default=989, help="TFLOP/s of the GPU in bfloat16, as its maker states")
    add("--utilisation", type=float, default=0.4, help="assumed share of the peak")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one Markdown table."""
    args = parse(arguments)
    recipe = create_object(load_config(args.config))
    with torch.device("meta"):
        dit, _ = recipe.build_dit()
        discriminator = Discriminator(dit)
        vae = sum(p.numel() for p in recipe.build_untrained_vae().parameters())
    share = recipe.gradient_checkpoint
    sharded, hybrid, cut_again = STRATEGIES[args.strategy or recipe.strategy]
    frames, height, width = map(int, args.clip.split("x"))
    space = recipe.spatial_factor
    latent = (1 + (frames - 1) // recipe.temporal_factor, height // space, width // space)
    tokens = prod(n // p for n, p in zip(latent, dit.config.patch_size, strict=True)) + TEXT_TOKENS
    once = forward_flops(dit.config, [latent], [TEXT_TOKENS])
    sizes = [sum(p.numel() for p in network.parameters()) for network in (dit, discriminator)]
    print(f"{args.config}: {tokens} tokens a clip, {once / 1e12:.0f} TFLOP a forward pass\n")
    print("| stage | GPUs | state | gathered | activations | GB a GPU | s a step | clips a day |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for stage in stages(*sizes, len(discriminator.heads), share):
        seconds = stage.passes * once / (args.peak * 1e12 * args.utilisation)
        for gpus in args.gpus:
            ranks = (min(gpus, args.per_host) if hybrid else gpus) if sharded else 1
            parts = memory(stage, dit.config, tokens, ranks, gpus == 1 or not cut_again, share, vae)
            columns = " | ".join(f"{part / GB:.0f}" for part in (*parts, sum(parts)))
            print(f"| {stage.name} | {gpus} | {columns} | {seconds:.1f} | {gpus * 86400 / seconds:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
