"""Optional libraries: imported where they are used, with a sentence that says which extra installs them."""

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError, RuntimeError):
    """A library that the base install leaves out is needed; the message says how to get it.

    A RuntimeError as well, so that programs show its sentence as they show those of other refused requests.
    """


def need(library: str, extra: str, purpose: str) -> ModuleType:
    """The module `library`, imported now.

    Args:
        extra: the extra of this package that installs it. purpose: what needs it, as the subject of the message.
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
