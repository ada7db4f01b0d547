"""Evaluates arithmetic in configuration files: numbers, lists and tuples only, so that no code can run.

The text is parsed, and only the kinds of nodes that this module handles are accepted. Sizes are checked before a value
is built, so that no short text can fill the memory.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_TEXT = 10_000  # characters of an expression
MAX_VALUES = 10_000  # values in a result, including nested ones
MAX_BITS = 256  # bits of an integer

Value = int | float | str | bool | None | list[Any] | tuple[Any, ...]

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def safe_eval(text: str) -> Value:
    """Evaluate an arithmetic expression.

    Supported are literals (numbers, strings, True, False, None); + - * / // % ** on numbers; lists and tuples, which +
    concatenates and * repeats. Everything else is refused: names, calls, attributes, subscripts, comparisons,
    comprehensions, lambda, f-strings.

    Raises:
        ValueError: the expression is not supported; the message says why.
    """
    text = str(text)
    if len(text) > MAX_TEXT:
        raise ValueError(f"a config expression may have {MAX_TEXT} characters, this one has {len(text)}")
    try:
        return value_of(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"`{shortened(text)}` is not an expression: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"`{shortened(text)}` is nested too deeply for a config expression") from None
    except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise ValueError(f"`{shortened(text)}` cannot be computed: {error}") from None


def value_of(node: ast.expr) -> Value:
    """Evaluate one node of the tree; ValueError for every kind of node that is not handled here."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return bounded(value)
        case ast.List(elts=items):
            return bounded([value_of(item) for item in items])
        case ast.Tuple(elts=items):
            return bounded(tuple(value_of(item) for item in items))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            return SIGNS[type(op)](number(value_of(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return combined(op, value_of(left), value_of(right))
    raise ValueError(f"{type(node).__name__} is not allowed; only arithmetic, lists, tuples and list repetition are")


def combined(op: ast.operator, left: Value, right: Value) -> Value:
    """Compute left op right, for numbers, and for lists if the operator supports them."""
    if isinstance(op, ast.Mult) and isinstance(right, list | tuple):
        left, right = right, left
    if isinstance(op, ast.Mult) and isinstance(left, list | tuple):
        if type(right) is not int:
            raise ValueError(f"a list is repeated by a whole number, not by {right!r}")
        if (size(left) - 1) * max(right, 0) >= MAX_VALUES:
            raise ValueError(f"the repeated list would have more than {MAX_VALUES} values")
        return left * right
    if isinstance(op, ast.Add) and isinstance(left, list) and isinstance(right, list):
        return bounded([*left, *right])
    if isinstance(op, ast.Add) and isinstance(left, tuple) and isinstance(right, tuple):
        return bounded((*left, *right))
    if isinstance(op, ast.Pow):
        refuse_large_power(number(left), number(right))
    return bounded(ARITHMETIC[type(op)](number(left), number(right)))


def refuse_large_power(base: int | float, exponent: int | float) -> None:
    """Raise ValueError for a power whose integer result would be too large, before it is computed."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > 2 * MAX_BITS:
        raise ValueError(f"{base} ** {exponent} is too large")


def number(value: Value) -> int | float:
    """Return the value if it is a number; strings and truth values are refused in arithmetic."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return value


def bounded(value: Value) -> Value:
    """Return the value unless it is too large."""
    if isinstance(value, complex):
        raise ValueError("the result is a complex number")
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise ValueError(f"whole numbers may have {MAX_BITS} bits")
    if isinstance(value, list | tuple) and size(value) > MAX_VALUES:
        raise ValueError(f"a list may have {MAX_VALUES} values, nested ones counted")
    return value


def size(value: Value) -> int:
    """The number of values, including containers."""
    return 1 + sum(size(item) for item in value) if isinstance(value, list | tuple) else 1


def shortened(text: str) -> str:
    """The text, shortened for a message."""
    return text if len(text) <= 100 else text[:97] + "..."
