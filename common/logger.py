"""Standard logging, which each program sets up once."""

import logging
import re
import sys

# Control characters, those that reverse the direction of writing, other line ends, and bytes that are no text.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; call it as `get_logger(__name__)`. Silent until a program calls `set_up_logging`."""
    return logging.getLogger(name)


def printable(text: str) -> str:
    """The text with control characters escaped: a file's name must not move a terminal's cursor or forge a line."""
    return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class Escaping(logging.Formatter):
    """Escapes what is put into a message. Line ends that stand in the message itself stay."""

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
    logging.raiseExceptions = False  # a terminal that is gone must not add its own errors to every message
    for noisy in ("PIL", "httpx", "httpcore", "matplotlib", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
