"""Train the tiny model: pairs, VAE, latents, diffusion, distillation, adversarial stage (`configs_train/tiny.yaml`).

    python projects/train_tiny.py pairs --data FOLDER... --output runs/tiny &
    python projects/train_tiny.py vae --data FOLDER... --output runs/tiny

Each command reads what those before it left in the output folder. `projects/train_tiny.sh` runs them all.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import OmegaConf

from common.checkpoint import save_safetensors
from common.config import load_config
from common.create import create_object
from common.distributed.process import process_group
from common.logger import get_logger, set_up_logging
from data.training.index import build_index
from data.training.make_pairs import make_pairs
from data.training.sampling import ClipShape
from projects.video_diffusion_sr.build import build_vae, seeded_prompts
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillSettings, DistillStage
from projects.video_diffusion_sr.training.linear_start import start_linear
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.pair_latents import Milder, PairLatents, start_from_condition
from projects.video_diffusion_sr.training.resident import ResidentClips, ResidentConfig
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    settings_from,
)
from projects.video_diffusion_sr.training.stage import Batch, Source, Stage
from projects.video_diffusion_sr.training.vae import build_vae_stage

logger = get_logger(__name__)

WARM_STEPS, TIMED_STEPS = 12, 24  # before the number of steps is known; the first ones compile
STEPS_BETWEEN_CHECKPOINTS = 5000


def make_all_pairs(recipe: dict, data: list[str], output: Path) -> None:
    """Degraded pairs, set after set, until everything is made or `output/pairs/stop` appears; goes on after a stop."""
    sets, number = recipe["pairs"]["sets"], len(list((output / "pairs").glob("set_*")))
    degradation = {
        kind: OmegaConf.to_container(load_config(path), resolve=True) for kind, path in recipe["degradation"].items()
    }
    while not (output / "pairs" / "stop").exists() and number < recipe["pairs"]["rounds"] * len(sets):
        chosen = sets[number % len(sets)]
        shape = ClipShape(*chosen["shape"])
        kind = "image" if shape.frames == 1 else "video"
        started = time.perf_counter()
        seed = recipe["seed"] + number
        workers = recipe["pairs"]["workers"]
        pairs = make_pairs(data, chosen["count"], shape, seed, workers, degradation[kind])
        pairs.save(output / "pairs" / f"set_{number:03d}")
        logger.info("pairs of set %d: %d in %.1f s", number, chosen["count"], time.perf_counter() - started)
        number += 1


def train_vae(recipe: dict, data: list[str], output: Path) -> None:
    """The VAE, from pictures that stay on the GPU; `output/vae/export/vae.safetensors`."""
    section = recipe["vae"]
    torch.manual_seed(recipe["seed"])
    vae = create_object(load_config(recipe["config"]).vae.model)
    vae = vae.to(memory_format=torch.channels_last_3d)  # the layout in which cuDNN's 3-D convolutions are quick
    stage = build_vae_stage(vae, section["losses"], section["ema_decay"])
    clips = ResidentConfig(**section["data"] | {"shape": ClipShape(*section["data"]["shape"])})
    with process_group() as process:
        source = ResidentClips(build_index(data), clips, recipe["seed"], process.device)
        start_linear(vae, torch.cat([source.batch(-n).clips[0] for n in range(1, 9)]).cpu())

        def with_opponent_at_the_end(steps: int) -> None:
            start = round(steps * (1 - section["gan_share"]))
            stage.settings = replace(stage.settings, gan=replace(stage.settings.gan, start=start))
            stage.players = tuple(replace(p, start=start) if p.name == "discriminator" else p for p in stage.players)

        with_opponent_at_the_end(10**9)
        train_for(
            section["seconds"],
            stage,
            source,
            output / "vae",
            recipe["seed"],
            process,
            with_opponent_at_the_end,
            section["compile"],
        )


def train_for(
    seconds: float,
    stage: Stage,
    source: Source,
    folder: Path,
    seed: int,
    process,
    plan: Callable[[int], None] | None = None,
    compiled: bool = True,
    graphs: bool = False,
    first: Iterable[Batch] = (),
) -> None:
    """Train a stage for about so many seconds: the first steps tell how many there will be.

    What later slows a run down, such as pairs that are read meanwhile, moves its end: every report plans anew, so
    that the learning rate has come down when the time is up.

    Args:
        plan: called with the number of steps once it is known; it stays as it is then.
        compiled, graphs: on a GPU, see `LoopSettings`.
        first: batches to begin with, before the clock runs: what they take is spent once.
    """
    started = time.perf_counter()
    on_gpu = process.device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True  # what does not compile runs as it is
    settings = LoopSettings(
        seed,
        10**9,
        1,
        "bf16" if on_gpu else "float32",
        True,
        on_gpu and compiled,
        CheckpointSettings(STEPS_BETWEEN_CHECKPOINTS, 1),
        LogSettings(100, 0),
        on_gpu and graphs,
    )
    trainer = Trainer(stage, source, settings, folder, process)
    for batch in first:
        trainer.train_step([batch])
    stream = source.batches(0)
    timed = float("nan")
    for step in range(WARM_STEPS + TIMED_STEPS if seconds > 1 else 2):
        if step == WARM_STEPS:
            synchronize(process.device)
            timed = time.perf_counter()
        trainer.train_step([next(stream)])
    synchronize(process.device)
    begun, before = time.perf_counter(), trainer.step
    left = seconds - (begun - started)
    rate = TIMED_STEPS / (begun - timed) if seconds > 1 else 1.0
    steps = before + max(2, int(left * rate))
    logger.info("%s: %.2f steps/s, ready after %.1f s; %d steps", stage.name, rate, seconds - left, steps)
    if plan is not None:
        plan(steps)

    def planned(done: int) -> int:
        now = time.perf_counter()
        return done + int((started + seconds - now) * (done - before) / (now - begun))

    trainer.settings = replace(settings, steps=steps)
    if not trainer.run(resume=False, plan=planned if plan is None else None):
        logger.error(
            "%s was stopped; its averaged weights: python projects/export.py %s --output FILE", stage.name, folder
        )
        raise SystemExit(3)
    logger.info("%s: %.1f s in all", stage.name, time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if it is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_dit(recipe: dict, _data: list[str], output: Path) -> None:
    """Diffusion, distillation and adversarial stage on the pairs that are ready; an export in each stage's folder.

    A stage whose export is there already is not trained again, so a run that was cut short goes on at the next stage.
    """
    torch.manual_seed(recipe["seed"])
    torch.set_float32_matmul_precision("high")
    with process_group() as process:
        vae = build_vae(
            load_config(recipe["config"]).vae, output / "vae/export/vae.safetensors", process.device, torch.float32
        )
        source = PairLatents(vae, recipe["budget_latents"], recipe["seed"], Milder(**recipe["milder"]))
        source.refresh(output / "pairs")
        trainer = create_object(load_config(recipe["config"], [f"vae.scaling_factor={scaling_factor(source, output)}"]))
        prompts = Prompts(*seeded_prompts(trainer.config.dit.model.txt_in_dim))
        save_safetensors({"pos": prompts.positive, "neg": prompts.negative}, output / "prompts.safetensors")
        dit, _ = trainer.build_dit()
        start_from_condition(dit, vae.latent_channels)
        weights = output / "start.safetensors"
        save_safetensors(dit.state_dict(), weights)
        common = {"recipe": trainer, "prompts": prompts, "with_vae": False}

        def run(name: str, make_stage: Callable[[], Stage]) -> Path:
            exported = output / name / "export" / "dit.safetensors"
            if exported.is_file():
                logger.info("%s: there already", name)
                return exported
            source.refresh(output / "pairs")
            seconds = recipe[name.split("_")[0]]["seconds"]
            train_for(seconds, make_stage(), source, output / name, recipe["seed"], process, compiled=False)
            return exported

        settings = settings_from(DiffusionStageSettings, recipe["diffusion"]["settings"])
        first = partial(DiffusionStage, settings=settings, weights=weights, **common)
        diffusion = weights = run("diffusion", first)
        settings = settings_from(DistillSettings, recipe["distill"]["settings"])
        for number, steps in enumerate(settings.rounds):
            stage = partial(DistillStage, settings=settings, weights=weights, steps=steps, guided=not number, **common)
            weights = run(f"distill_{steps}", stage)
        settings = settings_from(AdversarialSettings, recipe["adversarial"]["settings"])
        run(
            "adversarial",
            partial(AdversarialStage, settings=settings, weights=weights, discriminator_weights=diffusion, **common),
        )


def scaling_factor(source: PairLatents, output: Path) -> str:
    """What makes the spread of the latents one; measured once, so that all stages of a run agree."""
    path = output / "scaling_factor"
    if not path.is_file():
        path.write_text(f"{1 / source.spread():.4f}")
        logger.info("scaling_factor: %s", path.read_text())
    return path.read_text()


COMMANDS = {"pairs": make_all_pairs, "vae": train_vae, "dit": train_dit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--recipe", default="configs_train/tiny.yaml")
    parser.add_argument("--data", nargs="+", required=True, help="folders of photographs and videos")
    parser.add_argument("--output", type=Path, default=Path("runs/tiny"))
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    args = parser.parse_intermixed_args()
    set_up_logging()
    recipe = OmegaConf.to_container(load_config(args.recipe, args.overrides), resolve=True)
    COMMANDS[args.command](recipe, args.data, args.output)


if __name__ == "__main__":
    main()
