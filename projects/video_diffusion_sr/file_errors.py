"""Errors of one file, and their log line: the name of the file, what is wrong, and what to do."""

import re
from pathlib import Path

import torch

from common.logger import printable
from data.media import MediaError


class InputError(MediaError):
    """The input cannot be read; all ranks that share it raise this error."""


class OutputError(MediaError):
    """The result cannot be written."""


class NotFiniteError(MediaError):
    """A network returned NaN or infinite values."""


class CrashError(MediaError):
    """The process died in the middle of this file."""


class SkippedError(MediaError):
    """The file is skipped, because its result exists or another run is making it."""


# What PyTorch says on a CPU: of a size beyond the memory, and beyond 64 bits.
NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed")

KINDS = {kind.__name__: kind for kind in (InputError, OutputError, NotFiniteError, SkippedError)}


def rebuild(kind: str, message: str) -> MediaError:
    """Rebuild an error of another rank from its class name and message; unknown classes become `OutputError`."""
    return KINDS.get(kind, OutputError)(message)


def sentence(error: BaseException, path: Path, verb: str = "restored") -> str:
    """One line about a failed file that starts with its name, whatever was raised.

    Args:
        verb: what the file could not be: "read", "planned", "restored".
    """
    if isinstance(error, torch.OutOfMemoryError):
        return f"{path.name}: out of device memory; try a smaller --vram, --res_h and --res_w, or --window"
    if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
        return f"{path.name}: out of memory; try a smaller size, such as smaller --res_h and --res_w, or --window"
    message, names = str(error).strip(), (path.name, str(path))
    if isinstance(error, MediaError | ValueError) and message.startswith((*names, *map(printable, names))):
        return message
    message = re.sub(r"\s+", " ", message)
    if isinstance(error, MediaError):
        return f"{path.name}: {message}"
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename and Path(str(error.filename)) != path else ""
        return f"{path.name}: cannot be {verb}: {error.strerror}{where}"
    kind = type(error).__name__
    return f"{path.name}: cannot be {verb} ({kind}{': ' if message else ''}{message[:300]}); --verbose shows where"
