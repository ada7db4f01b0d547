"""Marks functions for torch.compile, as constants or as not to be traced, without its import of two seconds."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Choice = TypeVar("Choice")


def cached_choice(choose: Callable[Arguments, Choice]) -> Callable[Arguments, Choice]:
    """`functools.cache` for choices that may log: traced code takes the answer and does not look inside.

    torch.compile would trace a cached function's body, meet its log message and break the graph there, in every block.
    """
    cached: Callable[Arguments, Choice] = functools.cache(choose)  # type: ignore[assignment]  # it takes any hashable

    @functools.wraps(choose)
    def chosen(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Choice:
        return cached(*args, **kwargs)

    # What `torch.compiler.assume_constant_result` sets; calling it would import the compiler.
    chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return chosen


def not_traced(function: Callable[Arguments, Choice]) -> Callable[Arguments, Choice]:
    """`torch.compiler.disable` by the mark that it sets: compiled code calls the function as it is."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function
