"""Converts errors about a file to sentences that begin with its name. Works without torch."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from common.logger import printable

# Errors of the operating system that the machine causes, not the file.
MACHINE_ERRORS = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ESTALE, errno.EMFILE, errno.ENFILE)


class MediaError(ValueError):
    """A file cannot be read or written; the message is a sentence that begins with the file's name."""


def shown(path: str | PathLike[str]) -> str:
    """The name of a file, safe to print: control characters and invalid bytes are written as `\\x1b`."""
    return printable(Path(path).name or str(path))


@contextmanager
def decoding(path: Path, failure: str = "the file is damaged") -> Iterator[None]:
    """Convert every exception of a decoder to a MediaError that names the file; the original is its `__cause__`.

    Damaged data makes decoders raise almost any exception (IndexError, struct.error, TypeError, AttributeError, ...),
    so no list of types would be complete.

    Args:
        path: the file that is read.
        failure: what the message says before the reason in brackets, for errors that the machine did not cause.
    """
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{shown(path)}: {_sentence(error, failure)}") from error


def reason(error: BaseException) -> str:
    """The message of an exception, on one printable line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(text.split()))


def _sentence(error: Exception, failure: str) -> str:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "there is not enough memory to decode it; free some, or make the picture smaller"
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return f"cannot be read ({reason(error)}); check the permissions and the disk"
    return f"{failure} ({reason(error)}); get a complete copy, or convert it with another program"
