"""Train one stage of a model: its VAE, diffusion, progressive distillation, or adversarial post-training.

These commands make a one-step model from a folder of videos and images (docs/training.md explains each of them):

    python projects/train.py vae         --config configs_tiny/main.yaml --data clips --output runs/vae
    python projects/train.py diffusion   --config configs_tiny/main.yaml --data clips --output runs/diffusion
    python projects/train.py distill     --config configs_tiny/main.yaml --data clips --output runs/distill \\
        --init_from runs/diffusion/export/dit.safetensors
    python projects/train.py adversarial --config configs_tiny/main.yaml --data clips --output runs/adversarial \\
        --init_from runs/distill/export/dit.safetensors --init_discriminator runs/diffusion/export/dit.safetensors

The last three read the VAE that `vae.checkpoint` in the model's YAML names. To use your own, add
vae.checkpoint=runs/vae/export/vae.safetensors after the stage.

On several GPUs or hosts, start the same commands with `torchrun --nproc-per-node=8`; `dit.fsdp.sharding_strategy` in
the model's YAML chooses how the model is sharded. To fine-tune a released model, use the stage `diffusion` or
`adversarial` with --init_from ckpts/....pth. To resume a run that was stopped by SIGTERM, Ctrl-C or a fault, run the
same command again.

--input is another name of --data. To change settings, use --set, or write the changes after the stage:
`train.KEY=VALUE` changes the training YAML, `KEY=VALUE` the model's:

    python projects/train.py diffusion --set train.steps=2000 train.diffusion.optimizer.lr=2e-5 dit.compile=True ...
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.logger import get_logger, set_up_logging
from common.parent import end_with_parent, has_launcher
from projects.program import add_material, add_model, new_parser, parse_with_settings, run_program
from projects.video_diffusion_sr.flag_types import to_name, to_path

logger = get_logger(__name__)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("stage", choices=("vae", "diffusion", "distill", "adversarial"), help="what to train")
    add_model(parser)
    add_material(parser, "folders of videos, images and tars of them, or one folder of stored latents")
    add("--output", type=to_path, required=True, help="the run's folder: checkpoints, logs, pictures, exported weights")
    add("--init_from", type=to_name, help="weights to start from, in any layout that inference reads")
    add("--init_discriminator", type=to_name, help="adversarial: weights of the diffusion model before distillation")
    add(
        "--validation",
        type=to_name,
        nargs="+",
        default=[],
        help="folders of held-out clips, measured every validation.every steps",
    )
    add(
        "--teacher_config", type=to_name, help="distill: the YAML of another model, whose weights teach the first round"
    )
    add("--teacher", type=to_name, help="distill: the weights of --teacher_config")
    add("--discriminator_config", type=to_name, help="adversarial: the YAML of another model for the discriminator")
    add("--prompts", type=to_path, help="folder with pos_emb.pt, neg_emb.pt, or .safetensors with pos, neg, null")
    add("--lora", metavar="rank=16", help="train a LoRA on top of --init_from: rank=16 or rank=16,alpha=32")
    add("--resume", choices=("auto", "never"), default="auto", help="auto: continue the run in --output, if any")
    add("--verbose", action="store_true", help="also say what was chosen and why")
    return parse_with_settings(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train. Exit codes: 0 if the stage is complete, 2 if a loss was not finite, 3 if it was stopped and can resume."""
    args = parse(arguments)
    set_up_logging(args.verbose)
    if has_launcher():
        end_with_parent()
    # Imported here, as PyTorch takes seconds, in which Ctrl-C is to end the program with a word and no traceback.
    from common.config import create_object, load_config, plain_values
    from common.distributed.process import process_group
    from projects.video_diffusion_sr.lora import LoraSettings
    from projects.video_diffusion_sr.training.nan_guard import NonFiniteLoss
    from projects.video_diffusion_sr.training.overrides import load_run
    from projects.video_diffusion_sr.training.run import RunOptions

    overrides = [*args.overrides, *(item for item in [*args.data, *args.validation] if "=" in item)]
    model, train = load_run(args.config, args.train or f"configs_train/{args.stage}.yaml", overrides)
    teacher = None
    if args.teacher_config or args.teacher:
        if not (args.stage == "distill" and args.teacher_config and args.teacher):
            raise ValueError("--teacher_config and --teacher go together, in the stage distill")
        teacher = create_object(load_config(args.teacher_config)), args.teacher
    if args.discriminator_config and args.stage != "adversarial":
        raise ValueError("--discriminator_config is for the stage adversarial")
    options = RunOptions(
        stage=args.stage,
        data=tuple(item for item in args.data if "=" not in item),
        output=args.output,
        init_from=args.init_from,
        init_discriminator=args.init_discriminator,
        prompts=args.prompts,
        lora=None if args.lora is None else LoraSettings.parse(args.lora),
        resume=args.resume == "auto",
        validation=tuple(item for item in args.validation if "=" not in item),
        teacher=teacher,
        discriminator=args.discriminator_config and create_object(load_config(args.discriminator_config)),
    )
    try:
        with process_group(args.device) as process:
            complete = create_object(model).train(plain_values(train), options, process)
    except NonFiniteLoss as error:
        logger.error("%s", error)
        return 2
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(run_program(main))
