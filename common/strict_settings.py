"""Reads a section of a YAML file as a frozen dataclass; unknown, missing and wrongly typed keys are refused."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

from common.config import suggestion

S = TypeVar("S")


def settings_from(cls: type[S], mapping: Mapping[str, Any] | None, where: str = "") -> S:
    """Make an instance of a dataclass from a YAML mapping, including nested dataclasses.

    Example:
        settings_from(OptimizerSettings, {"lr": 2e-5}, "train.optimizer.")

    Args:
        cls: a dataclass. Its annotations give the types: bool, int, float, str, None, literals, tuples, mappings, and
            dataclasses.
        mapping: the section; None: all values are defaults.
        where: the prefix of keys in messages, as on the command line.

    Raises:
        ValueError: a key is unknown, a key without a default is missing, or a value has another type than its field.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where.rstrip('.') or cls.__name__} must be a mapping of keys to values, got {mapping!r}")
    types_of = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(map(str, mapping)) - set(fields)):
        raise ValueError(f"unknown key {where}{unknown[0]}{suggestion(unknown[0], sorted(fields))}")
    if missing := [name for name, field in fields.items() if name not in mapping and is_required(field)]:
        raise ValueError(f"{where.rstrip('.') or cls.__name__} lacks the keys {', '.join(missing)}")
    return cls(**{key: converted(types_of[key], value, f"{where}{key}") for key, value in mapping.items()})


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def converted(annotation: Any, value: Any, where: str) -> Any:
    """Convert a value to the type of its annotation; ValueError if it has another type."""
    if dataclasses.is_dataclass(annotation):
        return settings_from(annotation, value, f"{where}.")  # type: ignore[arg-type]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return converted(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError(f"{where} must be {' or '.join(map(repr, args))}, got {value!r}")
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(converted(k, v, where) for k, v in zip(inner, value, strict=True))
    if origin is Mapping and isinstance(value, Mapping):
        return {str(name): converted(args[1], item, f"{where}.{name}") for name, item in value.items()}
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(annotation, type) and isinstance(value, annotation):
        if annotation is bool or not isinstance(value, bool):
            return value
    name = annotation.__name__ if origin is None and isinstance(annotation, type) else str(annotation)
    raise ValueError(f"{where} must be {name}, got {value!r}")
