"""From a recipe and a training YAML to a run: which stage with which weights, in how many legs."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.distributed.process import Process
from common.logger import get_logger
from projects.video_diffusion_sr.build import seeded_prompts
from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.prompts import POSITIVE, load_prompts, read_prompt_pair
from projects.video_diffusion_sr.train import ROOT, VideoDiffusionTrainer, Weights
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillSettings, DistillStage
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import LoopSettings, settings_from
from projects.video_diffusion_sr.training.sources import DataSettings, make_source
from projects.video_diffusion_sr.training.stage import Stage

logger = get_logger(__name__)

STAGES = ("vae", "diffusion", "distill", "adversarial")


@dataclass(frozen=True)
class RunOptions:
    """What a command line says about one run.

    stage: one of `STAGES`. data: folders. output: of the run.
    init_from: weights to start from. init_discriminator: of the adversarial stage's discriminator.
    prompts: a folder with pos_emb.pt and neg_emb.pt, or a .safetensors file with pos and neg; None: see
        `training_prompts`.
    lora: train low-rank factors instead of all weights.
    resume: go on from the newest checkpoint in `output`, if there is one.
    """

    stage: str
    data: tuple[str, ...]
    output: Path
    init_from: Weights = None
    init_discriminator: Weights = None
    prompts: Path | None = None
    lora: LoraSettings | None = None
    resume: bool = True


@dataclass(frozen=True)
class Leg:
    """A part of a run that has its own folder, steps and export."""

    folder: Path
    build: Callable[[], Stage]


def run_stage(recipe: VideoDiffusionTrainer, train: Mapping[str, Any], options: RunOptions, process: Process) -> bool:
    """Train one stage to its end, or until asked to stop; whether it is complete.

    Raises:
        ValueError: settings, weights or data that do not fit.
    """
    loop, data, section = split_settings(train, options.stage)
    asked = recipe.compile_vae if options.stage == "vae" else recipe.compile
    loop = replace(loop, compile=loop.compile or asked)
    refuse_used_folder(options)
    torch.manual_seed(loop.seed)
    if loop.precision == "bf16":
        torch.set_float32_matmul_precision("high")  # what autocast leaves in float32 may use TF32
    legs = list(make_legs(recipe, section, options))
    for leg in legs:
        if len(legs) > 1 and (leg.folder / "export").is_dir() and options.resume:
            logger.info("%s is done", leg.folder.name)
            continue
        source = make_source(options.stage, options.data, data, loop, process)
        trainer = Trainer(leg.build(), source, loop, leg.folder, process, recipe.strategy)
        if not trainer.run(options.resume):
            return False
        process.barrier()
    if process.leads and legs[-1].folder != options.output:
        shutil.copytree(legs[-1].folder / "export", options.output / "export", dirs_exist_ok=True)
    return True


def split_settings(train: Mapping[str, Any], stage: str) -> tuple[LoopSettings, DataSettings, dict[str, Any]]:
    """The three parts of a training YAML: the loop's, the data's, and the section named like the stage."""
    others = [name for name in STAGES if name in train and name != stage]
    if others:
        raise ValueError(f"the training config has a section `{others[0]}`, but the stage is {stage}; use its config")
    loop = {key: value for key, value in train.items() if key not in ("data", stage)}
    return settings_from(LoopSettings, loop), settings_from(DataSettings, train.get("data"), "data."), train.get(stage)


def refuse_used_folder(options: RunOptions) -> None:
    """ValueError when a new run would mix with an old one."""
    if not options.resume and options.output.is_dir() and any(options.output.iterdir()):
        raise ValueError(f"{options.output} holds a run already; resume it, or choose another --output")


def make_legs(recipe: VideoDiffusionTrainer, section: Mapping[str, Any] | None, options: RunOptions) -> Iterator[Leg]:
    """One leg, or one a round of progressive distillation."""
    stage, output = options.stage, options.output
    if options.lora is not None and stage not in ("diffusion", "adversarial"):
        raise ValueError(f"--lora fine-tunes in the stages diffusion and adversarial, not in {stage}")
    if stage == "vae":
        yield Leg(output, lambda: build_vae_stage(recipe, section, options))
        return
    prompts = training_prompts(options.prompts, recipe.config.dit.model.txt_in_dim)
    common = {"recipe": recipe, "prompts": prompts, "with_vae": wants_vae(recipe, options)}
    lora = {"lora": options.lora}
    if stage == "diffusion":
        settings = settings_from(DiffusionStageSettings, section, "diffusion.")
        yield Leg(output, lambda: DiffusionStage(settings=settings, weights=options.init_from, **common, **lora))
    elif stage == "adversarial":
        settings = settings_from(AdversarialSettings, section, "adversarial.")
        weights = {"weights": options.init_from, "discriminator_weights": options.init_discriminator}
        need("adversarial", **weights)
        yield Leg(output, lambda: AdversarialStage(settings=settings, **weights, **common, **lora))
    else:
        settings = settings_from(DistillSettings, section, "distill.")
        need("distill", weights=options.init_from)
        yield from distillation_legs(settings, options, common)


def distillation_legs(settings: DistillSettings, options: RunOptions, common: dict[str, Any]) -> Iterator[Leg]:
    """A round each; its teacher is what the round before exported."""
    weights = options.init_from
    for number, steps in enumerate(settings.rounds):
        folder = options.output / f"round_{steps:03d}"
        arguments = {"settings": settings, "weights": weights, "steps": steps, "guided": number == 0}
        yield Leg(folder, lambda arguments=arguments: DistillStage(**arguments, **common))
        weights = folder / "export" / "dit.safetensors"


def build_vae_stage(recipe: VideoDiffusionTrainer, section: Mapping[str, Any] | None, options: RunOptions) -> Stage:
    """The VAE's stage, with its settings from the section."""
    from projects.video_diffusion_sr.training import vae

    return vae.build_vae_stage(recipe.build_untrained_vae(options.init_from), section, recipe.ema_decay)


def need(stage: str, **weights: Weights) -> None:
    """ValueError unless there are weights to start from."""
    flags = {"weights": "--init_from", "discriminator_weights": "--init_discriminator"}
    for name, value in weights.items():
        if value is None:
            raise ValueError(f"the stage {stage} starts from trained weights: give {flags[name]} a checkpoint")


def wants_vae(recipe: VideoDiffusionTrainer, options: RunOptions) -> bool:
    """Pixels must be encoded; stored latents can do without a VAE, and then there are no pictures."""
    stored = any((Path(folder) / "index.json").is_file() for folder in options.data)
    path = Path(recipe.config.vae.checkpoint)
    there = path.is_file() or (ROOT / path).is_file()
    if stored and not there:
        logger.warning("%s is not there: training on stored latents goes on without pictures", path)
    return there or not stored


def training_prompts(path: Path | None, width: int) -> Prompts:
    """The text embeddings that stand for every clip, float32 on the CPU.

    Without a path: the released ones in ckpts/ for a model of their width, fixed random ones for any other.
    """
    if path is not None and path.suffix == ".safetensors":
        pair: Sequence[torch.Tensor] = read_prompt_pair(path, width)
    elif path is not None or width == POSITIVE.shape[1]:
        pair = load_prompts(ROOT / "ckpts" if path is None else path)
    else:
        pair = seeded_prompts(width)
    if any(p.shape[1] != width for p in pair):
        raise ValueError(f"the prompts are {pair[0].shape[1]} wide, the model reads {width}; give others by --prompts")
    return Prompts(*(p.float() for p in pair))
