"""Single values of a configuration, with the type that their key asks for; errors name the key."""

from math import isfinite
from typing import Any


def number(value: Any, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"config key {name} must be a number, not {value!r}")
    return float(value)


def positive(value: Any, name: str) -> float:
    """A number above 0."""
    if not number(value, name) > 0:
        raise ValueError(f"config key {name} must be above 0, not {value!r}")
    return float(value)


def whole_number(value: Any, name: str) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"config key {name} must be a whole number of at least 1, not {value!r}")
    return value


def switch(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"config key {name} must be True or False, not {value!r}")
    return value
