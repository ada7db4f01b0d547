"""Common parts of all programs but inference: how they end, and the flags that several of them have."""

import argparse
from collections.abc import Callable, Sequence

from common.distributed.refusal import JobParser, tell_refusal
from common.extras import MissingExtra
from common.logger import get_logger
from common.signals import exit_code
from common.standard_output import BROKEN_PIPE, reader_has_gone
from projects.video_diffusion_sr.flag_types import to_name, to_path

logger = get_logger(__name__)

EXPECTED = (ValueError, OSError, MissingExtra)  # errors that a user can fix, with complete sentences as messages
REFUSED = 1  # the exit status after one of them; argparse exits with 2 for wrong flags


def run_program(main: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a program and return its exit status; an expected error becomes one line on standard error.

    Every other exception is a mistake in the program and keeps its traceback.

    Example:
        sys.exit(run_program(main))

    Args:
        main: takes the arguments and returns the exit status, None for 0.
        arguments: the command line without the program's name; None takes `sys.argv`.
    """
    try:
        return main(arguments) or 0
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and reader_has_gone():
            return BROKEN_PIPE
        tell_refusal(str(error), lambda sentence: logger.error("%s", sentence))
        logger.debug("where it happened:", exc_info=error)
        return REFUSED
    except KeyboardInterrupt as error:
        logger.error("%s", str(error) or "interrupted")
        return exit_code(error)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with the program's docstring, unchanged."""
    return JobParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_settings(parser: argparse.ArgumentParser, changed: str) -> None:
    """Add the flag `--set KEY=VALUE ...` to change the program's YAML; KEY=VALUE without the flag does the same.

    Args:
        changed: the help text, which says to what the keys belong.
    """
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"the same as --set KEY=VALUE: {changed}")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=changed)


def add_device(flags: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --device to a parser or a group of its flags."""
    flags.add_argument("--device", default="auto", help="auto, cuda or cpu (default: %(default)s)")


def add_model(parser: argparse.ArgumentParser, cuts: str | None = None) -> None:
    """Add the flags of programs that build a model as training does: its YAML, the run's, changes, and the device.

    Args:
        cuts: the run's YAML by default, if the program uses only its section `data`; None: that of the stage.
    """
    add_settings(parser, "changes to the model's YAML, or with train. to --train")
    parser.add_argument(
        "--config", type=to_name, default="configs_3b/main.yaml", help="the model's YAML (default: %(default)s)"
    )
    of_run = "the YAML whose section `data` says what to cut (default: %(default)s)"
    of_stage = "the run's YAML (default: configs_train/STAGE.yaml)"
    parser.add_argument("--train", type=to_name, default=cuts, help=of_run if cuts else of_stage)
    add_device(parser)


def add_safetensors(parser: argparse.ArgumentParser) -> None:
    """Add --output of programs that make one file of weights."""
    parser.add_argument("--output", type=to_path, required=True, help="the .safetensors file to write")


def add_material(parser: argparse.ArgumentParser, what: str = "folders of videos and images") -> None:
    """Add the flag of the clips that a program reads; `what`: which kinds of them, for the help."""
    parser.add_argument("--input", "--data", dest="data", type=to_name, nargs="+", required=True, help=what)


def parse_with_settings(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line of `add_settings`; `overrides` holds the changes without a flag, then those of --set."""
    args = parser.parse_intermixed_args(arguments)
    args.overrides = [*args.overrides, *args.set]
    return args
