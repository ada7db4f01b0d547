"""Standard logging, which each program sets up once."""

import logging
import re
import sys

# Control characters, characters that change the direction of text, other line ends, and bytes that are not text.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; call it as `get_logger(__name__)`. Silent until a program calls `set_up_logging`."""
    return logging.getLogger(name)


def printable(text: str) -> str:
    """Escape control characters, so that a file name cannot move a terminal's cursor or forge a log line."""
    return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class Escaping(logging.Formatter):
    """Escapes the arguments of a message. Line ends in the message itself are kept."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            safe = tuple(arg if isinstance(arg, int | float) else printable(str(arg)) for arg in record.args)
            record = logging.makeLogRecord(record.__dict__ | {"args": safe})
        return super().format(record)


def set_up_logging(verbose: bool = False) -> None:
    """Send messages to standard error, one line each. Programs call this once; libraries never do.

    Args:
        verbose: also show debug messages (which backend was chosen, which plan was made).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Escaping("%(message)s" if not verbose else "%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False  # a closed terminal must not cause an error for every message
    for noisy in ("PIL", "httpx", "httpcore", "matplotlib", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
