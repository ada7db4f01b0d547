"""Lists of layers with typed entries."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def module_list(layers: Iterable[Layer]) -> Sequence[Layer]:
    """An `nn.ModuleList` of these layers, typed as a sequence of their class."""
    return nn.ModuleList(layers)  # type: ignore[return-value]  # torch declares its entries as plain modules
