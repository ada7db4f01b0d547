"""Train the tiny model from nothing: degraded pairs, VAE, transformer (`configs_train/tiny.yaml`).

    python projects/train_tiny.py pairs --data FOLDER... --output runs/tiny &
    python projects/train_tiny.py vae --data FOLDER... --output runs/tiny
    python projects/train_tiny.py fit --output runs/tiny

`runs/tiny.sh` runs all three. The YAML fixes the number of steps and no choice depends on a clock, so a run can be
repeated; each command continues where it was stopped. `fit` trains at times next to T for one sampling step, that is
restoration by regression; its special parts are in `projects/video_diffusion_sr/training/tiny/`. Its weights are
`OUTPUT/fit/export/dit.safetensors`.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.checkpoint import save_safetensors
from common.config import load_config, plain_values
from common.create import create_object
from common.distributed.process import Process, process_group
from common.logger import get_logger, set_up_logging
from common.signals import interrupted_by_signals
from common.strict_settings import settings_from
from data.degradation.pipeline import build_degradation
from data.training.index import build_index
from data.training.latent_shards import INDEX, ShardReader
from data.training.make_pairs import PairSet, make_sets
from data.training.model_range import to_model_range
from data.training.pair_sampler import PairSampler
from data.training.sampling import ClipShape
from models.nadit.model import NaDiT
from projects.program import add_settings, new_parser, parse_with_settings, run_program
from projects.video_diffusion_sr.build import build_vae, seeded_prompts
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.latent_statistics import stated_scale
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.resident import ResidentClips, ResidentConfig
from projects.video_diffusion_sr.training.run import write_normalized_vae
from projects.video_diffusion_sr.training.run_folder import owned
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import BatchSource, Stage
from projects.video_diffusion_sr.training.tiny.linear_decoder import decoder_metric
from projects.video_diffusion_sr.training.tiny.pair_latents import ConditionMixing, PairLatents, SetPlan
from projects.video_diffusion_sr.training.tiny.pca_start import start_from_components
from projects.video_diffusion_sr.training.tiny.residual_start import start_as_residual
from projects.video_diffusion_sr.training.tiny.ridge_head import Sample, solve_head
from projects.video_diffusion_sr.training.vae import build_vae_stage

logger = get_logger(__name__)

PCA_BATCHES, STATISTICS_BATCHES = 8, 32  # batches of the VAE's training: for its start, and to measure its latents
METRIC_CLIPS = 40  # number of clips of each set, for the linear decoder
STOPPED = 3  # exit status of a run that was stopped by a signal


def make_pairs(recipe: dict[str, Any], data: Sequence[str], output: Path) -> None:
    """Write the sets of pairs that do not exist yet, `output/pairs/set_000` and following."""
    section, folder = recipe["pairs"], output / "pairs"
    names = section["sets"] * section["rounds"]
    sets = [PairSet(ClipShape(*s["shape"]), s["count"], recipe["seed"] + n) for n, s in enumerate(names)]
    begun = next((n for n in range(len(sets)) if not (folder / f"set_{n:03d}" / INDEX).is_file()), len(sets))
    clip, image = (
        build_degradation(plain_values(load_config(section[name])))
        for name in ("degradation_video", "degradation_image")
    )
    sampler = PairSampler(build_index(data), list(dict.fromkeys(s.shape for s in sets)), clip, image)
    started, done, wanted = time.monotonic(), 0, sum(s.count for s in sets[begun:])
    with interrupted_by_signals():  # so that worker processes end with this one
        for number, pairs in enumerate(make_sets(sampler, sets[begun:], section["workers"]), begun):
            pairs.save(folder / f"set_{number:03d}")
            done += len(pairs.hq)
            minutes = (time.monotonic() - started) * (wanted - done) / done / 60
            logger.info("set %d of %d: %d pairs, %.1f min left", number + 1, len(sets), len(pairs.hq), minutes)


def train_vae(recipe: dict[str, Any], data: Sequence[str], output: Path) -> None:
    """Train the VAE on pictures that stay on the device, and export it with normalised latents (standard deviation 1).

    The file is `output/vae/export/vae.safetensors`.
    """
    section = recipe["vae"]
    torch.manual_seed(recipe["seed"])
    model = create_object(load_config(recipe["config"]))
    vae = model.build_untrained_vae()
    vae = vae.to(memory_format=torch.channels_last_3d)  # the layout in which cuDNN's 3-D convolutions are fast
    clips = ResidentConfig(**section["data"] | {"shape": ClipShape(*section["data"]["shape"])})
    with process_group() as process:
        source = ResidentClips(build_index(data), clips, recipe["seed"], process.device)
        start_from_components(vae, torch.cat([source.batch(-n).clips[0] for n in range(1, PCA_BATCHES + 1)]).cpu())
        stage = build_vae_stage(vae, section["losses"], section["ema_decay"])
        train(recipe, section["loop"], stage, source, output / "vae", process)
        exported = output / "vae/export/vae.safetensors"
        trained = model.build_untrained_vae(exported).to(process.device).eval()
        trained.set_causal_slicing(None)
        write_normalized_vae(trained, islice(source.batches(0), STATISTICS_BATCHES), exported)


def fit(recipe: dict[str, Any], _data: Sequence[str], output: Path, vae_weights: Path | None = None) -> None:
    """Train the transformer for one sampling step: `output/fit/export/dit.safetensors`.

    Args:
        vae_weights: weights of the VAE; None: those trained in the same output.
    """
    section = recipe["fit"]
    weights = vae_weights or output / "vae/export/vae.safetensors"
    plain = load_config(recipe["config"])
    scale = stated_scale(weights) or float(plain.vae.scaling_factor)
    config = load_config(recipe["config"], [f"vae.scaling_factor={scale}", *section["model"]])
    prompts = TrainingPrompts(*seeded_prompts(config.dit.model.txt_in_dim))
    plan = SetPlan(**section["sets"], last=len(recipe["pairs"]["sets"]) * recipe["pairs"]["rounds"])
    with process_group() as process:
        vae = build_vae(plain.vae, weights, process.device, torch.float32)
        vae.set_causal_slicing(None)  # many short clips at once: slices of them would be too small for the GPU
        mixing = ConditionMixing(**section["condition_mixing"])
        source = PairLatents(vae, output / "pairs", plan, section["budget_latents"], recipe["seed"], mixing)
        source.read(plan.sets(0))
        metric = decoder_metric(vae, clips_of(output / "pairs", plan.first, process.device), scale)
        start = output / "fit/start.safetensors"
        if not start.is_file():
            torch.manual_seed(recipe["seed"])
            dit = start_of(config, source, prompts.positive, scale, section["head_batches"], process)
            save_safetensors(dit.state_dict(), start)
        settings = settings_from(DiffusionStageSettings, section["settings"], "fit.settings.")
        stage = DiffusionStage(create_object(config), settings, prompts, start, with_vae=False, metric=metric)
        train(recipe, section["loop"], stage, source, output / "fit", process)


def train(
    recipe: dict[str, Any], loop: dict[str, Any], stage: Stage, source: BatchSource, folder: Path, process: Process
) -> None:
    """Run a stage to its last step; SystemExit if a signal stops it."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    settings = replace(settings_from(LoopSettings, loop, "loop."), seed=recipe["seed"])
    if process.device.type != "cuda":
        settings = replace(settings, precision="float32", graphs=False)
    if not Trainer(stage, source, settings, folder, process).run():
        raise SystemExit(STOPPED)


def start_of(
    config: DictConfig, source: PairLatents, text: Tensor, scale: float, batches: int, process: Process
) -> NaDiT:
    """A new transformer that returns its condition, with a head that is solved on the first batches."""
    dit = create_object(config.dit.model).to(process.device)
    start_as_residual(dit, source.vae.latent_channels)
    samples = samples_of(source, dit, text.to(process.device), scale, batches)
    logger.info("head solved: error of the velocity %.4f, then %.4f", *solve_head(dit, samples))
    return dit


def samples_of(source: PairLatents, dit: NaDiT, text: Tensor, scale: float, batches: int) -> Iterator[Sample]:
    """Yield every clip of the first batches as a sample for `solve_head`."""
    for number in range(batches):
        batch = source.batch(number)
        counts = [t * h * w for t, h, w in batch.sizes]
        rows = zip(batch.hq_mean.split(counts), batch.lq_mean.split(counts), batch.sizes, strict=True)
        for truth, condition, size in rows:
            truth, condition = truth.float() * scale, condition.float() * scale
            given = torch.cat([condition, torch.ones_like(condition[:, :1])], dim=1)

            def predict(x: Tensor, given: Tensor = given, size: tuple[int, int, int] = size) -> Tensor:
                return dit(torch.cat([x, given], 1), text, [size], [[len(text)]], 1000.0).vid_sample

            yield truth, size, predict


def clips_of(folder: Path, sets: int, device: torch.device) -> Iterator[Tensor]:
    """Yield ground truths of several frames, [1, 3, T, H, W] in [-1, 1], from the first sets."""
    for number in range(sets):
        hq = ShardReader(folder / f"set_{number:03d}").read_shard(0)["hq"][:METRIC_CLIPS]
        if hq.shape[1] > 1:
            yield from (to_model_range(clip[None].to(device)) for clip in hq)


COMMANDS: dict[str, Callable[..., None]] = {"pairs": make_pairs, "vae": train_vae, "fit": fit}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--recipe", default="configs_train/tiny.yaml")
    parser.add_argument(
        "--input", "--data", dest="data", nargs="+", default=[], help="folders of photographs and videos (pairs, vae)"
    )
    parser.add_argument("--vae", type=to_path, help="fit: another VAE than that of the output")
    parser.add_argument("--output", type=to_path, default=Path("runs/tiny"))
    add_settings(parser, "changes to the recipe")
    args = parse_with_settings(parser, arguments)
    if not args.data and args.command != "fit":
        parser.error(f"{args.command} reads photographs and videos: give --data FOLDER...")
    set_up_logging()
    recipe = plain_values(load_config(args.recipe, args.overrides))
    more = (args.vae,) if args.command == "fit" else ()
    with owned(args.output / args.command):
        COMMANDS[args.command](recipe, args.data, args.output, *more)


if __name__ == "__main__":
    sys.exit(run_program(main))
