"""Encode degraded pairs once, so that training reads latents instead of decoding, degrading and encoding at every step.

    torchrun --nproc-per-node=8 projects/precompute_latents.py --config configs_3b/main.yaml \\
        --train configs_train/diffusion.yaml --data clips --output latents --batches 20000

Shapes, crops and degradations are those of the training YAML's section `data`. The folder that comes out is what
`projects/train.py --data` takes. Means and log-variances are stored, in 16 bits: every visit of a sample draws its
latents anew. A clip's own text embedding is stored with it. The same command goes on after an interruption.
A stored pair has a fixed crop and degradation, so store many times more pairs than clips to keep their variety.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from common.config import create_object, plain_values
from common.distributed.process import Process, process_group
from common.logger import get_logger, set_up_logging
from projects.program import add_material, add_model, new_parser, parse_with_settings, run_program
from projects.video_diffusion_sr.flag_types import to_path

if TYPE_CHECKING:
    from torch import Tensor

    from projects.video_diffusion_sr.train import VideoDiffusionTrainer
    from projects.video_diffusion_sr.training.sources import DataSettings

logger = get_logger(__name__)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add_model(parser, cuts="configs_train/diffusion.yaml")
    add_material(parser)
    add("--output", type=to_path, required=True, help="a folder for the shards: new, or of this command before")
    add("--batches", type=int, required=True, help="how many batches of data.budget_pixels, over all ranks")
    return parse_with_settings(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode all batches. Returns 0 if the index is written."""
    args = parse(arguments)
    set_up_logging()
    from common.strict_settings import settings_from
    from projects.video_diffusion_sr.training.overrides import load_run
    from projects.video_diffusion_sr.training.run_folder import owned
    from projects.video_diffusion_sr.training.sources import DataSettings

    model, run = load_run(args.config, args.train, args.overrides)
    recipe, train = create_object(model), plain_values(run)
    data = settings_from(DataSettings, train["data"], "train.data.")
    with process_group(args.device) as process, owned(args.output) if process.is_leader else nullcontext():
        encode_part(recipe, data, int(train["seed"]), args, process)
        process.barrier()
        if process.is_leader:
            samples = join_parts(args.output, process.world)
            logger.info("%d pairs in %s", samples, args.output)
    return 0


def encode_part(
    recipe: "VideoDiffusionTrainer", data: "DataSettings", seed: int, args: argparse.Namespace, process: Process
) -> None:
    """Encode this rank's batches, and write them into a separate folder."""
    from data.training.index import Index
    from data.training.latent_shards import INDEX, write_latents
    from models.video_vae_v3.modules.posterior import DiagonalGaussian
    from projects.video_diffusion_sr.training.latents import pixels_of
    from projects.video_diffusion_sr.training.settings import LoopSettings
    from projects.video_diffusion_sr.training.sources import make_source

    vae = recipe.build_trained_vae().to(process.device)
    weight = next(vae.parameters())
    share = LoopSettings(seed=seed, steps=-(-args.batches // process.world))
    args.output.mkdir(parents=True, exist_ok=True)
    source = make_source("diffusion", args.data, data, share, process, args.output / "sources.json")

    def pixels(done: int) -> Iterator[list[dict[str, Any]]]:
        if done:
            logger.info("continuing after %d of %d batches", done, share.steps)
        for number, batch in enumerate(source.batches(done), done):
            process.alive(f"encoding batch {number}")
            assert isinstance(batch, list), "pixels come as samples"
            pairs = [pixels_of(sample, process.device) for sample in batch]
            yield [{**sample, "hq": hq, "lq": lq} for sample, (hq, lq) in zip(batch, pairs, strict=True)]

    def encode(clip: "Tensor") -> "tuple[Tensor, Tensor]":
        posterior = DiagonalGaussian(vae.encode_parameters(clip[None].to(weight)))
        return posterior.mean[0].float(), posterior.logvar[0].float()

    part = args.output / f"part_{process.rank:03d}"
    if (part / INDEX).is_file():
        logger.info("%s is complete", part)
        return
    # These determine what is stored. Other flags may differ when the command is repeated after an interruption.
    sources = Index.load(args.output / "sources.json").fingerprint
    cut, vae_file = replace(data, workers=0), recipe.config.vae.checkpoint
    job = f"seed {seed}, {process.world} ranks, {share.steps} batches each, {cut}, {sources}, {vae_file}"
    write_latents(pixels, encode, part, hashlib.sha256(job.encode()).hexdigest()[:16])


def join_parts(folder: Path, parts: int) -> int:
    """Write one index over all parts. Returns the number of samples."""
    shards = []
    for part in range(parts):
        name = f"part_{part:03d}"
        index = json.loads((folder / name / "index.json").read_text())
        shards += [{**shard, "file": f"{name}/{shard['file']}"} for shard in index["shards"]]
    unfinished = folder / "index.json.part"
    unfinished.write_text(json.dumps({"version": 1, "shards": shards}))
    unfinished.rename(folder / "index.json")
    return sum(len(shard["identities"]) for shard in shards)


if __name__ == "__main__":
    sys.exit(run_program(main))
