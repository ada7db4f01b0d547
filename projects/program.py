"""Common parts of all programs but inference: how they end, and their flags for changed settings."""

import argparse
from collections.abc import Callable, Sequence

from common.distributed.refusal import JobParser, tell_refusal
from common.extras import MissingExtra
from common.logger import get_logger
from common.signals import exit_code

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


def parse_with_settings(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line of `add_settings`; `overrides` holds the changes without a flag, then those of --set."""
    args = parser.parse_intermixed_args(arguments)
    args.overrides = [*args.overrides, *args.set]
    return args
