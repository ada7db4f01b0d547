"""Measure the spread of a VAE's latent channels, and write the VAE with every channel's spread made one.

    python projects/normalize_vae.py --config configs_tiny/main.yaml --data clips --output vae.safetensors

The VAE is the one that `vae.checkpoint` names. The stage `vae` of projects/train.py does this by itself at its end;
this is for a VAE from elsewhere. Pixels stay what they were. A transformer that was trained with the old latents does
not fit the new VAE: train it with `vae.checkpoint=vae.safetensors vae.scaling_factor=1`, and restore with the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from common.config import create_object, plain_values
from common.distributed.process import process_group
from common.logger import get_logger, set_up_logging
from projects.program import add_material, add_model, add_safetensors, new_parser, parse_with_settings, run_program

logger = get_logger(__name__)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add_model(parser, cuts="configs_train/vae.yaml")
    add_material(parser)
    add("--batches", type=int, default=16, help="of data.budget_pixels, to measure on (default: %(default)s)")
    add_safetensors(parser)
    return parse_with_settings(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the latents, fold their scale into the VAE, and write it. Returns 0 if the file is written."""
    args = parse(arguments)
    set_up_logging()
    from common.strict_settings import settings_from
    from projects.video_diffusion_sr.training.overrides import load_run
    from projects.video_diffusion_sr.training.run import write_normalized_vae
    from projects.video_diffusion_sr.training.settings import LoopSettings
    from projects.video_diffusion_sr.training.sources import DataSettings, make_source

    model, train = load_run(args.config, args.train, args.overrides)
    recipe, run = create_object(model), plain_values(train)
    data = settings_from(DataSettings, run["data"], "train.data.")
    with process_group(args.device) as process:
        vae = recipe.build_trained_vae().to(process.device, torch.float32)
        loop = LoopSettings(seed=int(run["seed"]), steps=args.batches)
        source = make_source("vae", args.data, data, loop, process)
        batches = (batch for batch, _ in zip(source.batches(0), range(args.batches), strict=False))
        write_normalized_vae(vae, batches, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
