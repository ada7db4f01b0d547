"""One way to say something: standard logging, set up once by the program that runs."""

import logging
import sys


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; call it as `get_logger(__name__)`. Silent until a program calls `set_up_logging`."""
    return logging.getLogger(name)


def set_up_logging(verbose: bool = False) -> None:
    """Send messages to standard error, one line each. Programs call this once; libraries never do.

    Args:
        verbose: also show debug messages (which backend was chosen, which plan was made).
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    for noisy in ("PIL", "httpx", "httpcore", "matplotlib", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
