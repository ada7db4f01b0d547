"""Networks without weights: made from a YAML on the meta device, and compared."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from common.config import create_object

N = TypeVar("N", bound=nn.Module)


def network_of(kind: type[N], config: Mapping[str, Any]) -> N:
    """`network_without_weights`, of this class.

    Raises:
        ValueError: a key or value that it does not take, or the YAML names another class.
    """
    network = network_without_weights(config)
    if not isinstance(network, kind):
        raise ValueError(f"the YAML of a network names {type(network).__name__}, which is no {kind.__name__}")
    return network


def network_without_weights(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config's `__object__` names, on the meta device, in evaluation mode, without gradients.

    Raises:
        ValueError: a key or value that it does not take.
    """
    try:
        with torch.device("meta"):
            return create_object(config).eval().requires_grad_(False)
    except (TypeError, RuntimeError, AttributeError, ArithmeticError, LookupError, AssertionError) as error:
        raise ValueError(f"the YAML of a network does not fit it: {error}") from error


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks would compute the same: the same modules, settings and shapes of parameters."""
    return facts(one) == facts(other)


def facts(network: nn.Module) -> list[tuple[Any, ...]]:
    """Of every module: its name, its class, its settings, and the shapes of its parameters."""
    simple = (bool, int, float, str, tuple, type(None))
    return [
        (
            name,
            type(module),
            getattr(module, "config", None),
            {key: value for key, value in vars(module).items() if key[0] != "_" and isinstance(value, simple)},
            [(key, value.shape) for key, value in module.named_parameters(recurse=False)],
        )
        for name, module in network.named_modules()
    ]
