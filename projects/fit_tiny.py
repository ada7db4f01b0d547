"""The tiny model's one step: the last part of how `ckpts/tiny/dit.safetensors` was made.

    python projects/train_tiny.py pairs --data FOLDER... --output runs/tiny &
    python projects/fit_tiny.py --run runs/tiny --output runs/tiny/one_step --seconds 500

Starts from the diffusion stage of `projects/train_tiny.py`. The last layer is solved in closed form at t = T, then the
whole network is trained at times next to T, which makes it the best restoration in one step given the input; errors
count as they show in the pixels, by the logarithm of each clip's. Pairs that are made meanwhile are used as soon as
they are ready. On a GPU steps are replayed as CUDA graphs, one for every size of pairs.
`one_step/export/dit.safetensors` is what `ckpts/tiny/` holds, in half precision.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from omegaconf import OmegaConf
from torch import Tensor

from common.checkpoint import save_safetensors
from common.config import load_config
from common.create import create_object
from common.distributed.process import process_group
from common.logger import get_logger, set_up_logging
from data.training.latent_shards import INDEX, ShardReader
from data.training.model_range import to_model_range
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.train_tiny import train_for
from projects.video_diffusion_sr.build import build_network, build_vae, seeded_prompts
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.graphed import WARM
from projects.video_diffusion_sr.training.last_layer import refit_last_layer
from projects.video_diffusion_sr.training.pair_latents import Milder, PairLatents
from projects.video_diffusion_sr.training.pixel_metric import PixelMetric, pixel_metric
from projects.video_diffusion_sr.training.settings import settings_from

logger = get_logger(__name__)

METRIC_SETS, METRIC_CLIPS = 8, 40
NEXT_TO_T = ["diffusion.timesteps.training.loc=8.0", "diffusion.timesteps.training.scale=0.5"]  # of logit(t / T)


def samples_of(source: PairLatents, dit: NaDiT, text: Tensor, scale: float, batches: int) -> Iterator:
    """Every clip of the first `batches` batches, as `refit_last_layer` wants them."""
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


def metric_of(vae: VideoAutoencoderKL, folder: Path, scale: float) -> PixelMetric:
    """From the first clips in the first sets of pairs."""

    def clips() -> Iterator[Tensor]:
        device = next(vae.parameters()).device
        for index in sorted(folder.glob(f"*/{INDEX}"))[:METRIC_SETS]:
            hq = ShardReader(index.parent).read_shard(0)["hq"][:METRIC_CLIPS]
            if hq.shape[1] > 1:
                yield from (to_model_range(clip[None].to(device)) for clip in hq)

    return pixel_metric(vae, clips(), scale)


def fit(
    recipe: dict,
    run: Path,
    output: Path,
    seconds: float,
    pairs: Path | None = None,
    init_from: Path | None = None,
    batches: int = 150,
    device: str = "auto",
) -> Path:
    """Solve the last layer, then train; the path of the weights. The arguments are those of the command line."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    section = recipe["one_step"]
    scale = float((run / "scaling_factor").read_text())
    trainer = create_object(load_config(recipe["config"], [f"vae.scaling_factor={scale}", *NEXT_TO_T]))
    prompts = Prompts(*seeded_prompts(trainer.config.dit.model.txt_in_dim))
    with process_group(device) as process:
        vae_weights = run / "vae/export/vae.safetensors"
        vae = build_vae(load_config(recipe["config"]).vae, vae_weights, process.device, torch.float32)
        source = PairLatents(vae, section["budget_latents"], recipe["seed"], Milder(**recipe["milder"]))
        source.follow(pairs or run / "pairs")

        metric = metric_of(vae, pairs or run / "pairs", scale).to(process.device)
        floor = section["settings"]["log_floor"]

        def weigh(error: Tensor, size: tuple[int, int, int]) -> float:
            frame = torch.arange(size[0], device=error.device).repeat_interleave(size[1] * size[2])
            return 1 / (float(metric(error, frame).square().mean()) + floor)

        weights = init_from or run / "diffusion/export/dit.safetensors"
        dit = build_network(trainer.config.dit.model, weights, process.device, torch.float32)
        samples = samples_of(source, dit, prompts.positive.to(process.device), scale, batches)
        logger.info("last layer solved: weighed error %.4f -> %.4f", *refit_last_layer(dit, samples, weigh=weigh))
        start = output / "start.safetensors"
        save_safetensors(dit.state_dict(), start)
        settings = settings_from(DiffusionStageSettings, recipe["diffusion"]["settings"] | section["settings"])
        stage = DiffusionStage(trainer, settings, prompts, start, with_vae=False, metric=metric)
        first = (WARM + 1) * source.one_of_each() if process.device.type == "cuda" else []
        fast = {"compiled": section["compile"], "graphs": section["graphs"], "first": first}
        train_for(seconds, stage, source, output, recipe["seed"], process, **fast)
    return output / "export/dit.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output of projects/train_tiny.py")
    parser.add_argument("--pairs", type=Path, help="folder of sets of pairs; the run's own by default")
    parser.add_argument("--init_from", type=Path, help="weights to start from; the run's diffusion stage by default")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500, help="of training")
    parser.add_argument("--batches", type=int, default=150, help="of pairs, from which the last layer is solved")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--recipe", default="configs_train/tiny.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    args = parser.parse_intermixed_args()
    set_up_logging()
    recipe = OmegaConf.to_container(load_config(args.recipe, args.overrides), resolve=True)
    fit(recipe, args.run, args.output, args.seconds, args.pairs, args.init_from, args.batches, args.device)


if __name__ == "__main__":
    main()
