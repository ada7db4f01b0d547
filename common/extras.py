"""Imports optional libraries, with an error message that says which extra installs a missing one."""

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError, RuntimeError):
    """An optional library is needed and not installed; the message says how to install it.

    It is also a RuntimeError, so that programs show its message like those of other refused requests.
    """


def need(library: str, extra: str, purpose: str) -> ModuleType:
    """Import the module `library`.

    Args:
        extra: the extra of this package that installs it.
        purpose: what needs it, as the subject of the message.
    Raises:
        MissingExtra: the library is not installed.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        package = library.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the library is there, and something that it imports is not
        raise MissingExtra(
            f"{purpose} needs the library {package}, which is not installed: `pip install 'seedvr[{extra}]'`, or in a "
            f"checkout `pip install -r requirements.txt`"
        ) from error
