"""Loads configurations: a YAML file, the files it inherits from, and changes from the command line.

__inherit__: other.yaml             the mapping starts as a copy of that file (or of several, later ones win)
__object__: {path, name, args}      the class that the mapping describes, see `create_object`
${eval:'6 * ${.vid_dim}'}           arithmetic, see `common.safe_eval`
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.create import create_object
from common.safe_eval import safe_eval
from common.yaml_limits import MOST_VALUES, Resolver, refuse_large_text, values

__all__ = ["create_object", "load_config", "override_names", "plain_values"]

ROOT = Path(__file__).resolve().parents[1]
INHERIT = "__inherit__"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a configuration from a YAML file, with all inheritance and expressions resolved.

    Args:
        path: the file, relative to the working directory or, if it is not there, to the repository.
        overrides: `key.of.a.value=value` in YAML's spelling, applied before expressions are computed, so that
            `dit.model.num_layers=4` also shortens the lists that follow from it.

    Returns:
        a DictConfig without interpolations. Reading a key that it does not have is an error.

    Raises:
        FileNotFoundError: the file, or a file that it inherits from, does not exist.
        ValueError: a file is not YAML, files inherit in a cycle, an override has an unknown key (the message suggests
            the closest known one), or an expression is not arithmetic.
    """
    try:
        tree = read_tree(find_file(path, [Path.cwd(), ROOT]), (), {})
        for override in overrides:
            tree = with_override(tree, override)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply for a configuration") from None
    # Registered again at every call, so that a resolver of another library with this name is never used.
    register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver  # its name before 2.4
    register("eval", safe_eval, replace=True)
    config = OmegaConf.create(tree)
    try:
        Resolver(config).resolve()
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    OmegaConf.set_struct(config, True)
    return config


def plain_values(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists, numbers and strings."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def find_file(path: str | Path, beside: Sequence[Path]) -> Path:
    """Find a file, relative to each of the given folders in turn."""
    tried = [(folder / path).resolve() for folder in beside]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"there is no config file {path}; looked for {' and '.join(map(str, dict.fromkeys(tried)))}"
    )


def read_tree(path: Path, inheritors: tuple[Path, ...], known: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Read a file as plain dictionaries, with every `__inherit__` replaced by the content that it names.

    known: the content of files that were read before, since several files may inherit from the same one.
    """
    if path in known:
        return known[path]
    if path in inheritors:
        chain = " -> ".join(p.name for p in (*inheritors, path))
        raise ValueError(f"{path} inherits itself ({chain}); remove one of these {INHERIT} lines")
    try:
        refuse_large_text(path.read_text(encoding="utf-8"))
        loaded = OmegaConf.load(path)
        tree = OmegaConf.to_container(loaded, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a YAML configuration: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values")
    known[path] = with_inherited(tree, path, (*inheritors, path), known)
    return known[path]


def with_inherited(node: Any, path: Path, inheritors: tuple[Path, ...], known: dict[Path, dict[str, Any]]) -> Any:
    """Merge a node over the files from which it inherits; `path` is the file of the node."""
    if isinstance(node, list):
        return [with_inherited(item, path, inheritors, known) for item in node]
    if not isinstance(node, dict):
        return node
    parents = node.get(INHERIT, [])
    parents = parents if isinstance(parents, list) else [parents]
    if not all(isinstance(parent, str) for parent in parents):
        raise ValueError(f"{path}: {INHERIT} must be a path or a list of paths, not {node[INHERIT]!r}")
    base: dict[str, Any] = {}
    for parent in parents:
        base = merged(base, read_tree(find_file(parent, [path.parent, ROOT]), inheritors, known))
    if values(base) > MOST_VALUES:
        raise ValueError(f"{path}: with what it inherits it would have more than {MOST_VALUES} values")
    changes = {key: with_inherited(value, path, inheritors, known) for key, value in node.items() if key != INHERIT}
    return merged(base, changes)


def merged(base: Any, change: Any) -> Any:
    """Merge mappings key by key; replace all other values."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}


class UnknownKey(ValueError):
    """An override names a key that does not exist."""


def with_override(tree: Any, override: str) -> Any:
    """Apply one `key=value` to the tree."""
    key, value = parse_override(override)
    try:
        return replaced(tree, key.split("."), value, key)
    except UnknownKey as error:
        raise ValueError(f"{error}{nearest(key, tree)}") from error


def parse_override(override: str) -> tuple[str, Any]:
    """Split one `key=value` into the full name of the key and the plain value."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"override `{override}` must have the form key.of.a.value=value")
    try:
        refuse_large_text(text)
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"override `{override[:100]}`: the value is not YAML: {error}") from error
    return key.strip(), parsed["value"]


def override_names(override: str) -> list[str]:
    """The full names of the values that one `key=value` sets: several if the value is a mapping."""
    key, value = parse_override(override)
    return list(leaves(value, key))


def replaced(node: Any, keys: list[str], value: Any, name: str) -> Any:
    """Copy a node with another value under these keys; keys that do not exist are refused."""
    if not keys:
        return replaced_whole(node, value, name)
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise ValueError(f"unknown config key {name}: the list has entries 0 to {len(node) - 1}, not {key}")
        return [replaced(item, rest, value, name) if i == int(key) else item for i, item in enumerate(node)]
    if not isinstance(node, dict):
        raise ValueError(
            f"unknown config key {name}: there is a single value where {key} is looked for; set it as a whole"
        )
    if key not in node:
        raise UnknownKey(f"unknown config key {name}: there is no {key}{suggestion(key, list(node))}")
    return {**node, key: replaced(node[key], rest, value, name)}


def replaced_whole(node: Any, value: Any, name: str) -> Any:
    """The value that replaces a node; a group of keys can only be replaced by a mapping of some of its keys."""
    if not isinstance(node, dict):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(f"config key {name} is a group; set one of its keys: {', '.join(map(str, node))}")
    for key, item in value.items():
        node = replaced(node, [str(key)], item, f"{name}.{key}")
    return node


def suggestion(key: str, known: list[str]) -> str:
    """The end of a message about an unknown key: the closest known key, or all known keys."""
    close = difflib.get_close_matches(key, [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(map(str, known))}"


def nearest(name: str, tree: Any) -> str:
    """The end of a message about an unknown full name: the most similar name in the tree, if there is one.

    Names with the same last part come first, since `steps` probably means one of them.
    """
    known = list(leaves(tree))
    alike = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = difflib.get_close_matches(name, alike, n=1, cutoff=0.0) or difflib.get_close_matches(
        name, known, n=1, cutoff=0.5
    )
    return f" (the nearest key: {close[0]})" if close else ""


def leaves(node: Any, name: str = "") -> dict[str, Any]:
    """The full names of all values that are not mappings, in plain containers."""
    if not isinstance(node, dict):
        return {name: node}
    below = [leaves(value, f"{name}.{key}" if name else str(key)) for key, value in node.items()]
    return {key: value for part in below for key, value in part.items()}
