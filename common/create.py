"""From a configuration to an object of the class that it names."""

import importlib
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

PACKAGES = ("models", "common", "data", "projects")
# What stands before the packages' names: nothing in the repository, "seedvr._engine." where it is installed.
PREFIX = __name__.removesuffix("common.create")
KEYS = {"path", "name", "args"}


def create_object(config: Mapping[str, Any], **extra: Any) -> Any:
    """The object that `__object__: {path, name, args}` in a configuration describes.

    Args:
        config: a mapping with `__object__`. `path` is a module of this repository, `name` a class in it. `args` says
            how the other keys arrive: `as_params` as keyword arguments in plain Python containers, `as_config`
            (default) as one DictConfig, the first argument.
        extra: further keyword arguments; with `as_params` they replace keys of the same name.

    Raises:
        ValueError: no usable `__object__`, or a class that this repository does not define: a config is data, and data
            must not be able to call anything else.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("__object__"), Mapping):
        raise ValueError("this configuration has no `__object__: {path, name}`, so it names no class to create")
    about = config["__object__"]
    unknown = set(about) - KEYS
    if unknown:
        raise ValueError(f"unknown keys in __object__: {', '.join(sorted(unknown))}; known are path, name and args")
    cls = find_class(str(about.get("path")), str(about.get("name")))
    args = about.get("args", "as_config")
    rest = OmegaConf.create({key: config[key] for key in config if key != "__object__"})
    if args == "as_params":
        plain = OmegaConf.to_container(rest, resolve=True)
        assert isinstance(plain, dict)
        return cls(**{**plain, **extra})
    if args == "as_config":
        return cls(as_struct(rest), **extra)
    raise ValueError(f"__object__.args must be as_params or as_config, not {args!r}")


def find_class(path: str, name: str) -> type:
    """The class called `name` in the module `path`, both of this repository."""
    if path.split(".")[0] not in PACKAGES or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"__object__ names {path}.{name}; only classes of {', '.join(PACKAGES)} can be created")
    try:
        module = importlib.import_module(PREFIX + path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{PREFIX}{path}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it needs is not
        raise ValueError(f"__object__ names the module {path}, which does not exist") from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        raise ValueError(f"__object__ names {path}.{name}, and {path} has no class of that name")
    home = cls.__module__
    if not home.startswith(PREFIX) or home.removeprefix(PREFIX).split(".")[0] not in PACKAGES:
        raise ValueError(f"{path}.{name} is {cls.__module__}.{name}, which this repository does not define; refused")
    return cls


def as_struct(config: DictConfig) -> DictConfig:
    """The config, refusing reads of keys that it does not have."""
    OmegaConf.set_struct(config, True)
    return config
