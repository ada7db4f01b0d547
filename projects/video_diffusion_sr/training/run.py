"""From a model's recipe and a training YAML to a run: its stage, its weights, its parts."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from common.checkpoint import load_tensors_only, read_state_dict, save_safetensors
from common.distributed.process import Process
from common.logger import get_logger
from common.strict_settings import settings_from
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
from projects.video_diffusion_sr.training.run_folder import claim_folder, refuse_used_folder
from projects.video_diffusion_sr.training.run_record import record_start
from projects.video_diffusion_sr.training.settings import LoopSettings, split_settings
from projects.video_diffusion_sr.training.sources import DataSettings, held_out_clips, make_source
from projects.video_diffusion_sr.training.stage import Batch, BatchSource, Stage
from projects.video_diffusion_sr.training.vae import build_vae_stage, in_model_range
from projects.video_diffusion_sr.training.validation import Validation

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights

logger = get_logger(__name__)

STATISTICS_BATCHES = 32  # of the VAE's training, on which the spread of its latents is measured
LARGE_MEAN = 0.5  # of a latent channel, in spreads, that is worth a warning


@dataclass(frozen=True)
class RunOptions:
    """The command line of one run.

    stage: one of `settings.STAGES`. data: folders. output: of the run.
    init_from: weights to start from. init_discriminator: of the adversarial stage's discriminator.
    prompts: a folder with pos_emb.pt and neg_emb.pt, or a .safetensors file with pos and neg; None: see
        `training_prompts`.
    lora: train low-rank factors instead of all weights.
    resume: go on from the newest checkpoint in `output`, if there is one.
    validation: folders of held-out clips.
    teacher: another model's recipe and weights, of the first round of distillation.
    discriminator: another model's recipe, of the adversarial stage's discriminator.
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
        """The options as the run's folder records them."""
        words = {name: getattr(self, name) for name in ("stage", "init_from", "init_discriminator", "prompts", "lora")}
        words = {name: None if value is None else str(value) for name, value in words.items()}
        words |= {"data": list(self.data), "validation": list(self.validation)}
        return words | {"teacher": None if self.teacher is None else str(self.teacher[1])}


@dataclass(frozen=True)
class RunPart:
    """A part of a run that has its own folder, steps and export."""

    folder: Path
    build: Callable[[], Stage]


def run_stage(recipe: "VideoDiffusionTrainer", train: Mapping[str, Any], options: RunOptions, process: Process) -> bool:
    """Train one stage to its end, or until asked to stop; whether it is complete.

    Raises:
        ValueError: settings, weights or data that do not fit.
    """
    loop, data, section = split_settings(train, options.stage)
    data = settings_from(DataSettings, data, "train.data.")
    asked = recipe.compile_vae if options.stage == "vae" else recipe.compile
    loop = replace(loop, compile=loop.compile or asked)
    if not options.resume:
        refuse_used_folder(options.output)
    claim = claim_folder(options.output, options.stage) if process.is_leader else None
    try:
        torch.manual_seed(loop.seed)
        if loop.precision == "bf16":
            torch.set_float32_matmul_precision("high")  # what autocast leaves in float32 may use TF32
        parts = list(run_parts(recipe, section, options))
        complete = train_parts(recipe, parts, (loop, data), options, process, partial(record, recipe, train, options))
        if complete and process.is_leader and parts[-1].folder != options.output:
            shutil.copytree(parts[-1].folder / "export", options.output / "export", dirs_exist_ok=True)
        return complete
    finally:
        if claim is not None:
            claim.release()


def record(recipe: "VideoDiffusionTrainer", train: Mapping[str, Any], options: RunOptions, process: Process) -> None:
    """Record this start in the run's folder."""
    model = OmegaConf.to_container(recipe.config, resolve=True)
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
    """The measurement on held-out clips; None without such clips."""
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


def write_normalized_vae(vae: torch.nn.Module, batches: Iterable[Batch], path: Path) -> None:
    """Measure the latents of batches of the VAE's stage, fold their spread into the VAE, and write it."""
    device = next(vae.parameters()).device
    clips = (in_model_range(clip.to(device)) for batch in batches for clip in batch.clips)
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
    """One part, or one for each round of progressive distillation."""
    stage, output = options.stage, options.output
    if options.lora is not None and stage not in ("diffusion", "adversarial"):
        raise ValueError(f"--lora fine-tunes in the stages diffusion and adversarial, not in {stage}")
    if stage == "vae":
        untrained = recipe.build_untrained_vae
        yield RunPart(output, lambda: build_vae_stage(untrained(options.init_from), section, recipe.ema_decay))
        return
    prompts = training_prompts(options.prompts, recipe.config.dit.model.txt_in_dim)
    common = {"recipe": recipe, "prompts": prompts, "with_vae": needs_vae(recipe, options)}
    lora = {"lora": options.lora}
    if stage == "diffusion":
        settings = settings_from(DiffusionStageSettings, section, "train.diffusion.")
        yield RunPart(output, lambda: DiffusionStage(settings=settings, weights=options.init_from, **common, **lora))
    elif stage == "adversarial":
        settings = settings_from(AdversarialSettings, section, "train.adversarial.")
        require_weights("adversarial", "--init_from", options.init_from)
        if settings.discriminator_init == "diffusion":
            require_weights("adversarial", "--init_discriminator", options.init_discriminator)
        start = {
            "weights": options.init_from,
            "discriminator": DiscriminatorStart(options.init_discriminator, options.discriminator),
        }
        if options.discriminator is not None and settings.discriminator_init == "distilled":
            raise ValueError(
                "discriminator_init: distilled takes the generator's weights; --discriminator_config cannot"
            )
        yield RunPart(output, lambda: AdversarialStage(settings=settings, **start, **common, **lora))
    else:
        settings = settings_from(DistillSettings, section, "train.distill.")
        require_weights("distill", "--init_from", options.init_from)
        yield from distillation_rounds(settings, options, common)


def distillation_rounds(settings: DistillSettings, options: RunOptions, common: dict[str, Any]) -> Iterator[RunPart]:
    """One part per round; its teacher is the export of the round before."""
    weights = options.init_from
    for number, steps in enumerate(settings.rounds):
        folder = options.output / f"round_{steps:03d}"
        arguments = {"settings": settings, "weights": weights, "this_round": DistillRound(steps, guided=number == 0)}
        arguments["teacher"] = options.teacher if number == 0 else None
        yield RunPart(folder, lambda arguments=arguments: DistillStage(**arguments, **common))
        weights = folder / "export" / "dit.safetensors"


def require_weights(stage: str, flag: str, weights: "Weights") -> None:
    """ValueError unless the flag names weights to start from."""
    if weights is None:
        raise ValueError(f"the stage {stage} starts from trained weights: give {flag} a checkpoint")


def needs_vae(recipe: "VideoDiffusionTrainer", options: RunOptions) -> bool:
    """Whether to load the VAE: pixels need it; stored latents only for pictures, where its file exists."""
    stored = any((Path(folder) / "index.json").is_file() for folder in options.data)
    path = Path(recipe.config.vae.checkpoint)
    there = path.is_file() or (ROOT / path).is_file()
    if stored and not there:
        logger.warning("%s is not there: training on stored latents goes on without pictures", path)
    return there or not stored


def training_prompts(path: Path | None, width: int) -> TrainingPrompts:
    """The text embeddings that stand for every clip, float32 on the CPU.

    Without a path: the released ones in ckpts/ for a model of their width, fixed random ones for any other. The null
    text is `null` of the file or `null_emb.pt` of the folder; without it, one token of zeros.
    """
    null = None
    if path is not None and path.suffix == ".safetensors":
        pair: Sequence[torch.Tensor] = read_prompt_pair(path, width)
        null, what = read_state_dict(path).get("null"), str(path)
    elif path is not None or width == POSITIVE.shape[1]:
        folder = ROOT / "ckpts" if path is None else path
        pair, what = load_prompts(folder), str(folder)
        if (folder / "null_emb.pt").is_file():
            null = load_tensors_only(folder / "null_emb.pt")
    else:
        pair, what = seeded_prompts(width), "fixed random ones"
    texts = [*pair] if null is None else [*pair, null]
    wrong = next((t for t in texts if t.ndim != 2 or t.shape[1] != width), None)
    if wrong is not None:
        raise ValueError(f"{what}: a text of shape {tuple(wrong.shape)}, the model reads {width}; see --prompts")
    logger.info("text: %s; null text: %s", what, "zeros" if null is None else "given")
    return TrainingPrompts(*(t.float() for t in texts))
