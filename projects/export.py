"""Write a run's averaged weights as a file that inference loads.

    python projects/export.py runs/adversarial --output ckpts/my_model.safetensors

A run exports its weights after its last step, into its folder `export`. This program exports from a run that has not
finished, or from an older checkpoint (`--step`). It needs no GPU and no process group.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.checkpoint import save_safetensors
from common.logger import get_logger, set_up_logging
from projects.program import add_safetensors, new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

logger = get_logger(__name__)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("run", type=to_path, nargs="?", help="a run's folder, as given to train.py --output")
    parser.add_argument("--input", type=to_path, dest="folder", help="the same as the folder without a flag")
    add_safetensors(parser)
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--module", help="which network, where a run averages several")
    parser.add_argument("--raw", action="store_true", help="the weights themselves instead of their average")
    args = parser.parse_args(arguments)
    args.run = args.folder or args.run
    if args.run is None:
        parser.error("give the run's folder: --input runs/NAME")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the weights. Returns 0 if the file is written."""
    args = parse(arguments)
    set_up_logging()
    from common.distributed.checkpoint import averaged_state, checkpoints, read_meta
    from projects.video_diffusion_sr.lora import HEADER, factors_of

    found = {int(path.name.split("_")[1]): path for path in checkpoints(args.run / "checkpoints")}
    if not found:
        parts = sorted(path.parent.name for path in args.run.glob("*/checkpoints"))
        hint = f"its parts do: {', '.join(parts)}" if parts else "give the folder that train.py wrote as --output"
        raise FileNotFoundError(f"{args.run} holds no checkpoint; {hint}")
    step = max(found) if args.step is None else args.step
    if step not in found:
        raise ValueError(f"{args.run} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(found)))}")
    state = averaged_state(found[step], args.module, raw=args.raw)
    meta = read_meta(found[step])
    stage, header = str(meta.get("stage")), meta.get("header")
    if not isinstance(header, dict) or not all(isinstance(word, str) for pair in header.items() for word in pair):
        raise ValueError(f"{found[step]}: its description is damaged; try an older one with --step")
    state = factors_of(state) if HEADER in header else state
    save_safetensors(state, args.output, {"stage": stage, "step": str(step), **header})
    logger.info("%d tensors of stage %s, step %d, in %s", len(state), stage, step, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
