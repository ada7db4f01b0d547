"""Runs a training stage: builds it from the model's settings and a training YAML, and trains its part or parts."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.checkpoint import load_tensors_only, read_state_dict, save_safetensors
from common.config import plain_values
from common.distributed.process import Process
from common.logger import get_logger
from common.strict_settings import settings_from
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.build import seeded_prompts
from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.prompts import POSITIVE, load_prompts, read_prompt_pair
from projects.video_diffusion_sr.request import ROOT
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, DiscriminatorStart
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_statistics import fold, measure
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.run_folder import owned, refuse_other_stage, refuse_used_folder
from projects.video_diffusion_sr.training.run_record import record_start
from projects.video_diffusion_sr.training.settings import LoopSettings, split_settings
from projects.video_diffusion_sr.training.sources import DataSettings, held_out_clips, make_source
from projects.video_diffusion_sr.training.stage import Batch, BatchSource, Stage
from projects.video_diffusion_sr.training.vae import build_vae_stage, clips_of, in_model_range
from projects.video_diffusion_sr.training.validation import Validation

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights

logger = get_logger(__name__)

STATISTICS_BATCHES = 32  # batches of the VAE's training on which the deviation of its latents is measured
LARGE_MEAN = 0.5  # a latent channel's mean above this, in standard deviations, is worth a warning


@dataclass(frozen=True)
class RunOptions:
    """The options of one run, from its command line.

    stage: one of `settings.STAGES`.
    data: folders of training data.
    output: the run's folder.
    init_from: weights to start from.
    init_discriminator: weights from which the adversarial stage's discriminator starts.
    prompts: a folder with pos_emb.pt and neg_emb.pt, or a .safetensors file with pos and neg; None: see
        `training_prompts`.
    lora: train low-rank factors instead of all weights.
    resume: continue from the newest checkpoint in `output`, if there is one.
    validation: folders of held-out clips.
    teacher: settings and weights of another model, which teaches the first round of distillation.
    discriminator: settings of another model, for the adversarial stage's discriminator.
    """

    stage: str
    data: tuple[str, ...]
    output: Path
    init_from: "Weights" = None
    init_discriminator: "Weights" = None
    prompts: Path | None = None
    lora: LoraSettings | None = None
    resume: bool = True
    validation: tuple[str, ...] = ()
    teacher: "tuple[VideoDiffusionTrainer, Weights] | None" = None
    discriminator: "VideoDiffusionTrainer | None" = None

    def described(self) -> dict[str, Any]:
        """The options as they are recorded in the run's folder."""
        words = {name: getattr(self, name) for name in ("stage", "init_from", "init_discriminator", "prompts", "lora")}
        words = {name: None if value is None else str(value) for name, value in words.items()}
        words |= {"data": list(self.data), "validation": list(self.validation)}
        return words | {"teacher": None if self.teacher is None else str(self.teacher[1])}


@dataclass(frozen=True)
class RunPart:
    """A part of a run with its own folder, steps and export, such as a round of distillation."""

    folder: Path
    build: Callable[[], Stage]


def run_stage(recipe: "VideoDiffusionTrainer", train: Mapping[str, Any], options: RunOptions, process: Process) -> bool:
    """Train one stage until its end or until a stop signal. Returns whether it is complete.

    Raises:
        ValueError: settings, weights or data do not fit together.
    """
    loop, data_section, section = split_settings(train, options.stage)
    data = settings_from(DataSettings, data_section, "train.data.")
    asked = recipe.compile_vae if options.stage == "vae" else recipe.compile
    loop = replace(loop, compile=loop.compile or asked)
    if not options.resume:
        refuse_used_folder(options.output)
    if process.is_leader:
        refuse_other_stage(options.output, options.stage)
    with owned(options.output) if process.is_leader else nullcontext():
        torch.manual_seed(loop.seed)
        if loop.precision == "bf16":
            torch.set_float32_matmul_precision("high")  # what autocast leaves in float32 may use TF32
        parts = list(run_parts(recipe, section, options))
        complete = train_parts(recipe, parts, (loop, data), options, process, partial(record, recipe, train, options))
        if complete and process.is_leader and parts[-1].folder != options.output:
            shutil.copytree(parts[-1].folder / "export", options.output / "export", dirs_exist_ok=True)
        return complete


def record(recipe: "VideoDiffusionTrainer", train: Mapping[str, Any], options: RunOptions, process: Process) -> None:
    """Record this start in the run's folder."""
    model = plain_values(recipe.config)
    record_start(options.output, model, train, {**options.described(), "ranks": process.world})


def train_parts(
    recipe: "VideoDiffusionTrainer",
    parts: Sequence[RunPart],
    settings: tuple[LoopSettings, DataSettings],
    options: RunOptions,
    process: Process,
    record: Callable[[Process], None],
) -> bool:
    """Train the parts that are not done, until asked to stop; whether all are complete.

    Args:
        record: called on the leader once before the first step: a start that is refused leaves no record.
    """
    loop, data = settings
    recorded = not process.is_leader
    for part in parts:
        if len(parts) > 1 and (part.folder / "export").is_dir() and options.resume:
            logger.info("%s is done", part.folder.name)
            continue
        source = make_source(options.stage, options.data, data, loop, process, options.output / "index.json")
        validation = make_validation(recipe, options, data, loop, process)
        trainer = Trainer(part.build(), source, loop, part.folder, process, recipe.strategy, validation)
        if not recorded:
            record(process)
            recorded = True
        if not trainer.run(options.resume):
            return False
        if options.stage == "vae" and process.is_leader:
            normalize_exported_vae(recipe, source, loop, part.folder / "export" / "vae.safetensors", process)
        process.barrier()
    return True


def make_validation(
    recipe: "VideoDiffusionTrainer", options: RunOptions, data: DataSettings, loop: LoopSettings, process: Process
) -> Validation | None:
    """The measurement on held-out clips; None if there are no such clips."""
    if not options.validation or loop.validation.every < 1:
        return None
    if options.stage != "vae" and not needs_vae(recipe, options):
        raise ValueError("--validation decodes clips and there is no VAE; give vae.checkpoint=FILE behind the stage")
    cache = options.output / "validation_index.json"
    clips = held_out_clips(options.stage, options.validation, data, loop, process, cache)
    return Validation(clips, loop.validation, process, loop.sp_size)


def normalize_exported_vae(
    recipe: "VideoDiffusionTrainer", source: BatchSource, loop: LoopSettings, path: Path, process: Process
) -> None:
    """Rescale the exported VAE so that every latent channel has standard deviation 1."""
    vae = recipe.build_untrained_vae(path).to(process.device).eval()
    vae.set_causal_slicing(None)
    last = loop.steps * loop.accumulation
    stream = source.batches(max(0, last - STATISTICS_BATCHES))
    write_normalized_vae(vae, (next(stream) for _ in range(min(last, STATISTICS_BATCHES))), path)


def write_normalized_vae(vae: VideoAutoencoderKL, batches: Iterable[Batch], path: Path) -> None:
    """Measure the latents of some batches, divide out their standard deviations in the VAE, and write it."""
    device = next(vae.parameters()).device
    clips = (in_model_range(clip.to(device)) for batch in batches for clip in clips_of(batch))
    before = measure(vae, clips)
    after = fold(vae, before)
    save_safetensors(vae.state_dict(), path, {"stage": "vae", **after.header(1.0)})
    spreads = f"{float(before.std.min()):.3g} to {float(before.std.max()):.3g}"
    logger.info("%s: latent channels had spreads of %s, now 1; use it with vae.scaling_factor=1", path, spreads)
    if float(after.mean.abs().max()) > LARGE_MEAN:
        logger.warning("%s: a latent channel's mean is %.2g spreads from zero", path, float(after.mean.abs().max()))


def run_parts(
    recipe: "VideoDiffusionTrainer", section: Mapping[str, Any] | None, options: RunOptions
) -> Iterator[RunPart]:
    """Yield the parts of a run: one for each round of distillation, and a single one for any other stage."""
    stage, output = options.stage, options.output
    if options.lora is not None and stage not in ("diffusion", "adversarial"):
        raise ValueError(f"--lora fine-tunes in the stages diffusion and adversarial, not in {stage}")
    if stage == "vae":
        untrained = recipe.build_untrained_vae
        yield RunPart(output, lambda: build_vae_stage(untrained(options.init_from), section, recipe.ema_decay))
        return
    prompts = training_prompts(options.prompts, recipe.config.dit.model.txt_in_dim)
    with_vae, weights, lora = needs_vae(recipe, options), options.init_from, options.lora
    if stage == "diffusion":
        diffusion = settings_from(DiffusionStageSettings, section, "train.diffusion.")
        yield RunPart(output, partial(DiffusionStage, recipe, diffusion, prompts, weights, with_vae, lora))
    elif stage == "adversarial":
        adversarial = settings_from(AdversarialSettings, section, "train.adversarial.")
        require_weights("adversarial", "--init_from", weights)
        if adversarial.discriminator_init == "diffusion":
            require_weights("adversarial", "--init_discriminator", options.init_discriminator)
        start = DiscriminatorStart(options.init_discriminator, options.discriminator)
        if options.discriminator is not None and adversarial.discriminator_init == "distilled":
            raise ValueError(
                "discriminator_init: distilled takes the generator's weights; --discriminator_config cannot"
            )
        yield RunPart(output, partial(AdversarialStage, recipe, adversarial, prompts, weights, start, with_vae, lora))
    else:
        distill = settings_from(DistillSettings, section, "train.distill.")
        require_weights("distill", "--init_from", weights)
        make = partial(DistillStage, recipe, distill, prompts, with_vae=with_vae)
        yield from distillation_rounds(distill, options, make)


def distillation_rounds(
    settings: DistillSettings, options: RunOptions, make: Callable[..., DistillStage]
) -> Iterator[RunPart]:
    """Yield one part per round; a round's teacher is the export of the previous round.

    Args:
        make: a function (weights, round, other teacher of the first round) -> stage.
    """
    weights = options.init_from
    for number, steps in enumerate(settings.rounds):
        folder, this_round = options.output / f"round_{steps:03d}", DistillRound(steps, guided=number == 0)
        teacher = options.teacher if number == 0 else None
        yield RunPart(folder, partial(make, weights=weights, this_round=this_round, teacher=teacher))
        weights = folder / "export" / "dit.safetensors"


def require_weights(stage: str, flag: str, weights: "Weights") -> None:
    """Raise ValueError if the flag, which must name initial weights, is missing."""
    if weights is None:
        raise ValueError(f"the stage {stage} starts from trained weights: give {flag} a checkpoint")


def needs_vae(recipe: "VideoDiffusionTrainer", options: RunOptions) -> bool:
    """Whether to load the VAE. Pixels need it; stored latents use it for pictures in the log, if its file exists."""
    stored = any((Path(folder) / "index.json").is_file() for folder in options.data)
    path = Path(recipe.config.vae.checkpoint)
    there = path.is_file() or (ROOT / path).is_file()
    if stored and not there:
        logger.warning("%s does not exist: training on stored latents logs no pictures", path)
    return there or not stored


def training_prompts(path: Path | None, width: int) -> TrainingPrompts:
    """The text embeddings that all clips share, float32 on the CPU.

    Without a path they are the released ones in ckpts/ if the model has their width, and else fixed random ones. The
    null text is `null` in the file or `null_emb.pt` in the folder, or else one token of zeros.
    """
    null: Tensor | None = None
    if path is not None and path.suffix == ".safetensors":
        pair: Sequence[torch.Tensor] = read_prompt_pair(path, width)
        null, what = read_state_dict(path).get("null"), str(path)
    elif path is not None or width == POSITIVE.shape[1]:
        folder = ROOT / "ckpts" if path is None else path
        pair, what = load_prompts(folder), str(folder)
        if (folder / "null_emb.pt").is_file():
            found = load_tensors_only(folder / "null_emb.pt")
            if not isinstance(found, Tensor):
                raise ValueError(f"{folder / 'null_emb.pt'} must hold one tensor, as pos_emb.pt does")
            null = found
    else:
        pair, what = seeded_prompts(width), "fixed random ones"
    texts = [*pair] if null is None else [*pair, null]
    wrong = next((t for t in texts if t.ndim != 2 or t.shape[1] != width), None)
    if wrong is not None:
        raise ValueError(f"{what}: a text of shape {tuple(wrong.shape)}, the model reads {width}; see --prompts")
    logger.info("text: %s; null text: %s", what, "zeros" if null is None else "given")
    return TrainingPrompts(*(t.float() for t in texts))
