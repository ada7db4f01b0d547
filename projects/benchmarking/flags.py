"""The flags that both benchmarks have, and the files that they name."""

import argparse
import json
from typing import Any

from projects.video_diffusion_sr.flag_types import to_path


def add_measuring(flags: argparse.ArgumentParser | argparse._ArgumentGroup, timed: str, warm_up: int) -> None:
    """Add --warm_up, --profile and --json.

    Args:
        flags: the parser, or a group of its flags.
        timed: what is timed, in the plural: runs or steps.
        warm_up: how many come before those that are timed, by default.
    """
    warm = f"{timed} before those that are timed (%(default)s)"
    flags.add_argument("--warm_up", type=int, default=warm_up, metavar="N", help=warm)
    flags.add_argument(
        "--profile", type=to_path, help="write to this file the kernels by time, and when the device waited"
    )
    flags.add_argument("--json", type=to_path, help="write everything measured to this file")


def write_measured(args: argparse.Namespace, measured: Any) -> None:
    """Write what was measured to the file of --json, if there is one."""
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1))
