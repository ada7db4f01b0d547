"""Builds networks without weights, on the meta device, from a YAML, and compares them."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from common.config import create_object

N = TypeVar("N", bound=nn.Module)


def network_of(kind: type[N], config: Mapping[str, Any]) -> N:
    """The result of `network_without_weights`, which must be of the class `kind`.

    Raises:
        ValueError: the network does not accept a key or value, or the YAML names another class.
    """
    network = network_without_weights(config)
    if not isinstance(network, kind):
        raise ValueError(f"the YAML of a network names {type(network).__name__}, which is no {kind.__name__}")
    return network


def network_without_weights(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config's `__object__` names, on the meta device, in evaluation mode, without gradients.

    Raises:
        ValueError: the network does not accept a key or value.
    """
    try:
        with torch.device("meta"):
            return create_object(config).eval().requires_grad_(False)
    except (TypeError, RuntimeError, AttributeError, ArithmeticError, LookupError, AssertionError) as error:
        raise ValueError(f"the YAML of a network does not fit it: {error}") from error


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same modules, settings and shapes of parameters, so that they compute the same."""
    return facts(one) == facts(other)


def facts(network: nn.Module) -> list[tuple[Any, ...]]:
    """The name, class, settings and parameter shapes of every module."""
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
