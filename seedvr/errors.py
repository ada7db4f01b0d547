"""What can go wrong, by kind. The messages are the sentences of the command line."""

from collections.abc import Iterator
from contextlib import contextmanager


class SeedVRError(Exception):
    """Any error of this package that its user can do something about."""


class InputError(SeedVRError, ValueError):
    """The frames, the file or a setting cannot be used; says which and what would do."""


class WeightsError(SeedVRError, FileNotFoundError, ValueError):
    """Weights are missing, damaged, of another model, or in a layout that is not read."""


class MemoryPlanError(SeedVRError, ValueError):
    """The clip does not fit the memory that it may take; says what the smallest plan needs."""


class NotFiniteError(SeedVRError):
    """A network returned values that are not numbers; says which, and what may help."""


class OutputError(SeedVRError, OSError):
    """The result cannot be written."""


class Cancelled(SeedVRError):
    """The caller asked to stop. Nothing unfinished is left behind."""


@contextmanager
def errors_as(kind: type[Exception], *caught: type[Exception]) -> Iterator[None]:
    """A block whose `caught` errors are raised as `kind`, one of this package's, with the same message."""
    try:
        yield
    except caught as error:
        raise kind(str(error)) from error
