"""The errors of this package. Their messages are those of the command line."""

from collections.abc import Iterator
from contextlib import contextmanager


class SeedVRError(Exception):
    """The base of all errors of this package."""


class InputError(SeedVRError, ValueError):
    """Frames, a file or a setting cannot be used. The message says what is wrong and what would be accepted."""


class WeightsError(SeedVRError, FileNotFoundError, ValueError):
    """Weights are missing, damaged, of another model, or in an unsupported layout."""


class MemoryPlanError(SeedVRError, ValueError):
    """The clip does not fit into the allowed memory. The message says how much the smallest plan needs."""


class NotFiniteError(SeedVRError):
    """A network returned NaN or infinite values. The message names the network and what may help."""


class OutputError(SeedVRError, OSError):
    """The result cannot be written."""


class Cancelled(SeedVRError):
    """The caller has cancelled the call. No unfinished files remain."""


@contextmanager
def errors_as(kind: type[Exception], *caught: type[Exception]) -> Iterator[None]:
    """A context that raises `caught` errors as `kind`, an error of this package, with the same message."""
    try:
        yield
    except caught as error:
        raise kind(str(error)) from error
