"""Marks functions for torch.compile as constant or untraced, without the compiler's import, which takes two seconds."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Choice = TypeVar("Choice")


def cached_choice(choose: Callable[Arguments, Choice]) -> Callable[Arguments, Choice]:
    """`functools.cache` for functions that log: torch.compile treats their result as a constant.

    Otherwise torch.compile would trace the function's body and break the graph at its log call, in every block.
    """
    cached: Callable[Arguments, Choice] = functools.cache(choose)  # type: ignore[assignment]  # it takes any hashable

    @functools.wraps(choose)
    def chosen(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Choice:
        return cached(*args, **kwargs)

    # The attribute that `torch.compiler.assume_constant_result` sets; calling that would import the compiler.
    chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return chosen


def not_traced(function: Callable[Arguments, Choice]) -> Callable[Arguments, Choice]:
    """Set the attribute that `torch.compiler.disable` sets: compiled code calls the function without tracing it."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function
