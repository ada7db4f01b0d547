"""Seconds and memory of a training step, beside what is predicted: random weights of the real shapes, random latents.

python projects/benchmark_training.py diffusion --config configs_tiny/main.yaml --clip 5x64x96 --steps 2
torchrun --nproc-per-node=2 projects/benchmark_training.py diffusion --config configs_3b/main.yaml --clip 21x720x1280
torchrun --nproc-per-node=2 projects/benchmark_training.py adversarial --config configs_3b/main.yaml \\
    --clip 9x720x1280 --clip 21x720x1280 dit.fsdp.sharding_strategy=FULL_SHARD train.sp_size=2

Steps are those of the loop (draws, losses, gradients, clipping, optimisers, averages) without reading and writing.
Settings are changed as for projects/train.py: KEY=VALUE in the model's YAML, train.KEY=VALUE in the run's.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from omegaconf import DictConfig, OmegaConf

from common.config import plain_values
from common.distributed.fsdp import STRATEGIES, max_over_ranks
from common.distributed.process import Process, process_group
from common.logger import get_logger, set_up_logging
from common.parent import end_with_parent, has_launcher
from data.video.framing import latent_frames
from projects.benchmarking.flags import add_measuring, write_measured
from projects.benchmarking.profiling import profile
from projects.benchmarking.timing import timed
from projects.benchmarking.training import RandomLatents, RandomRecipe, random_stage
from projects.program import add_model, new_parser, parse_with_settings, run_program
from projects.video_diffusion_sr.communication import TEXT_TOKENS
from projects.video_diffusion_sr.flag_types import clip_shape
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.train import VideoDiffusionTrainer
from projects.video_diffusion_sr.training.adversarial import AdversarialStage
from projects.video_diffusion_sr.training.cost import Gpu, Sharding, StageCost, StepTime, memory, stage_costs, step_time
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.overrides import load_run
from projects.video_diffusion_sr.training.packed import Size3
from projects.video_diffusion_sr.training.reports import peak_flops
from projects.video_diffusion_sr.training.settings import CheckpointSettings, split_settings
from projects.video_diffusion_sr.training.stage import BatchSource

logger = get_logger(__name__)

GB = 1e9


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("stage", choices=("diffusion", "distill", "adversarial"))
    add_model(parser)
    add(
        "--clip", nargs="+", action="append", metavar="FxHxW",
        help="frames x height x width of each sample of a batch (default: 21x720x1280); again for another batch",
    )  # fmt: skip
    add("--steps", type=int, default=3, help="that are timed (default: %(default)s)")
    add_measuring(parser, "steps", warm_up=2)
    args = parse_with_settings(parser, arguments)
    args.overrides += [item for clips in args.clip or () for item in clips if "=" in item]
    args.clip = [[item for item in clips if "=" not in item] for clips in args.clip or [["21x720x1280"]]]
    if args.steps < 1 or args.warm_up < 1:
        parser.error("--steps and --warm_up must be at least 1: the first step allocates what the others use")
    return args


def latent_sizes(clips: Sequence[str], recipe: VideoDiffusionTrainer) -> list[Size3]:
    """The latent (t, h, w) of clips written as FRAMESxHEIGHTxWIDTH; ValueError for an invalid or impossible size."""
    sizes = []
    for clip in clips:
        try:
            frames, height, width = clip_shape(clip)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--clip: {error}") from None
        time, space = recipe.temporal_factor, recipe.spatial_factor
        step = space * recipe.config.dit.model.patch_size[1]
        if frames < 1 or (frames - 1) % time or height % step or width % step or min(height, width) < step:
            raise ValueError(f"--clip {clip}: frames are {time}n + 1, height and width multiples of {step}")
        sizes.append((latent_frames(frames, time), height // space, width // space))
    return sizes


def make_trainer(args: argparse.Namespace, model: DictConfig, train: Mapping[str, Any], process: Process) -> Trainer:
    """Make the training loop with random weights; it has no batches yet."""
    loop, _, section = split_settings(train, args.stage)
    if loop.precision == "bf16":
        torch.set_float32_matmul_precision("high")  # as in a training run
    recipe = RandomRecipe(
        OmegaConf.masked_copy(model, [str(key) for key in model if key != "__object__"]), process.device
    )
    loop = replace(loop, checkpoint=CheckpointSettings(every=0), compile=loop.compile or recipe.compile)
    stage = random_stage(args.stage, recipe, section)
    return Trainer(stage, BatchSource(), loop, Path("unused"), process, recipe.strategy)


def latent_stage(trainer: Trainer) -> LatentStage:
    """The stage of `make_trainer`."""
    assert isinstance(trainer.stage, LatentStage)
    return trainer.stage


def make_step(trainer: Trainer, sizes: Sequence[Size3]) -> Callable[[], float]:
    """Make a function that runs a training step on random latents of these sizes, and returns its operations here."""
    channels = latent_stage(trainer).recipe.config.dit.model.vid_out_channels
    stream = RandomLatents(sizes, channels, trainer.device).batches(0)

    def step() -> float:
        trainer.process.alive("a step")
        record, _ = trainer.train_step([next(stream) for _ in range(trainer.settings.accumulation)])
        return record.work.flops

    return step


def measure(trainer: Trainer, step: Callable[[], float], steps: int, warm_up: int) -> dict[str, float]:
    """Measure the seconds and operations of a step, and the memory in bytes of the GPU that needs most."""
    device, found, flops = trainer.device, {}, 0.0
    for _ in range(warm_up):
        flops = step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found["state"] = float(torch.cuda.memory_allocated(device))  # memory between steps
        torch.cuda.reset_peak_memory_stats(device)
    trainer.process.barrier()
    found["seconds"] = timed(lambda: [step() for _ in range(steps)], device) / steps
    trainer.nan_guard.check()
    if device.type == "cuda":
        found["peak"] = float(torch.cuda.max_memory_allocated(device))
        found["reserved"] = float(torch.cuda.max_memory_reserved(device))
        torch.cuda.empty_cache()  # for batches of another size
    names = sorted(found)
    most = max_over_ranks(torch.tensor([found[name] for name in names], dtype=torch.float64, device=device))
    return dict(zip(names, most.tolist(), strict=True)) | {"flops": flops}


def cost_of(stage: str, trainer: Trainer) -> StageCost:
    """The costs of the stage, as in `training_cost.py`, with the networks and the optimiser of this run."""
    trained = latent_stage(trainer)
    of_critic, heads = 0, 0
    if isinstance(trained, AdversarialStage):
        of_critic, heads = sum(p.numel() for p in trained.discriminator.parameters()), len(trained.discriminator.heads)
    moments = 1 if any(player.optimizer.name == "rmsprop" for player in trained.players) else 2
    of_dit = sum(p.numel() for p in trained.dit.parameters())
    return stage_costs(of_dit, of_critic, heads, trained.recipe.recompute, moments=moments)[stage]


def predict(stage: StageCost, trainer: Trainer, sizes: Sequence[Size3]) -> Mapping[str, float]:
    """Predict the memory of each GPU in bytes, by purpose."""
    trained, process = latent_stage(trainer), trainer.process
    config, recipe = trained.dit.config, trained.recipe
    sharded, hybrid, reshard_after_forward = STRATEGIES[recipe.strategy]
    ranks = (process.local_world if hybrid else process.world) if sharded else 1
    sharding = Sharding(ranks, trainer.settings.sp_size, ranks == 1 or not reshard_after_forward)
    return memory(stage, config, count_tokens(config.patch_size, sizes), sharding, recipe.recompute)


def predict_time(stage: StageCost, trainer: Trainer, sizes: Sequence[Size3], gpu: Gpu) -> StepTime:
    """Predict the time of a step, without the small saving of checkpointing that keeps attention."""
    config, ranks = latent_stage(trainer).dit.config, trainer.settings.sp_size
    flops = transformer_flops(config, sizes, [TEXT_TOKENS] * len(sizes))
    return step_time(stage, config, flops / ranks, count_tokens(config.patch_size, sizes) / ranks, gpu)


def count_tokens(patch: Size3, sizes: Sequence[Size3]) -> int:
    """The number of tokens in a batch, with those of texts."""
    return sum(prod(size) // prod(patch) + TEXT_TOKENS for size in sizes)


def table(
    clips: Sequence[str],
    found: Mapping[str, Any],
    predicted: Mapping[str, Any],
    time: StepTime,
    peak_rate: float | None,
) -> str:
    """Format the measured and the predicted values of one batch as text."""
    rate = found["flops"] / found["seconds"]
    used = "" if peak_rate is None else f", MFU {rate / peak_rate:.1%}"
    lines = [f"{' '.join(clips)}: {found['seconds']:.3f} s a step, {rate / 1e12:.1f} TFLOP/s a rank{used}"]
    bound = ", which the host takes to issue it: other hosts differ" if time.host_bound else ""
    lines.append(f"    s predicted for an H100: {time.seconds:.2f}{bound}")
    if "peak" in found:
        measured = ", ".join(f"{name} {found[name] / GB:.1f}" for name in ("peak", "reserved", "state"))
        lines.append(f"    GB measured: {measured}")
    parts = ", ".join(f"{part} {size / GB:.1f}" for part, size in predicted.items())
    return "\n".join([*lines, f"    GB predicted: peak {sum(predicted.values()) / GB:.1f} ({parts})"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, and print their time and memory."""
    args = parse(arguments)
    set_up_logging(False)
    if has_launcher():
        end_with_parent()
    model, train = load_run(args.config, args.train or f"configs_train/{args.stage}.yaml", args.overrides)
    with process_group(args.device) as process:
        trainer, results = make_trainer(args, model, plain_values(train), process), []
        recipe, loop, device = latent_stage(trainer).recipe, trainer.settings, trainer.device
        if process.is_leader:
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
            print(f"{args.stage}, {args.config}, {process.world} x {name}, {recipe.strategy}, groups of {loop.sp_size}")
        for clips in args.clip:
            sizes = latent_sizes(clips, recipe)
            cost = cost_of(args.stage, trainer)
            predicted, time = predict(cost, trainer, sizes), predict_time(cost, trainer, sizes, Gpu())
            step = make_step(trainer, sizes)
            found = measure(trainer, step, args.steps, args.warm_up)
            kernels = profile({" ".join(clips): step}, device) if args.profile else None
            if process.is_leader:
                print(table(clips, found, predicted, time, peak_flops(device)), flush=True)
            of_clips = {"clips": clips, "measured": found, "predicted": dict(predicted) | asdict(time)}
            results.append(of_clips | {"kernels": kernels})
        if process.is_leader:
            write_measured(args, results)
        if process.is_leader and args.profile:
            args.profile.write_text("\n".join(result["kernels"] for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
