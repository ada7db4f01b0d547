"""Limits the size of configuration files, since a few lines of YAML that refer to each other can grow to any size.

References (`&a`, `*a`) are counted before anything is built. Interpolations (`${key}`) are replaced one by one, each
after those to which it refers, and the size is checked each time.
"""

import re
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, Node, OmegaConf

MOST_BYTES = 1 << 20  # bytes of a file
MOST_VALUES = 20_000  # values in a configuration, including keys and containers
MOST_INTERPOLATED = 4_000  # values from all interpolations together
MOST_LETTERS = 100_000  # characters of one value
MOST_DEPTH = 60
RESOLVER = "eval"
REFERENCE = re.compile(r"\$\{\s*([^${}:]+?)\s*\}")
OTHER_RESOLVER = re.compile(r"\$\{\s*(?!eval\s*:)[^${}]*[:$]")


def refuse_large_text(text: str) -> None:
    """Raise ValueError if the YAML is too large or too deeply nested. Nothing is built.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text)} characters, a configuration may have {MOST_BYTES}")
    sizes: dict[str, int] = {}
    open_nodes: list[list[Any]] = [[None, 0]]  # name, values so far
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            open_nodes.append([event.anchor, 1])
            if len(open_nodes) > MOST_DEPTH:
                raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")
            continue
        if isinstance(event, yaml.ScalarEvent):
            name, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            name, size = None, sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            name, size = open_nodes.pop()
        else:
            continue
        if name is not None:
            sizes[name] = size
        open_nodes[-1][1] += size
        if open_nodes[-1][1] > MOST_VALUES:
            raise ValueError(f"it would grow to more than {MOST_VALUES} values")


def values(node: Any) -> int:
    """The number of values in a tree of dictionaries and lists, including containers."""
    if isinstance(node, dict):
        return 1 + sum(values(item) for item in node.values())
    return 1 + sum(values(item) for item in node) if isinstance(node, list) else 1


class Resolver:
    """Replaces every interpolation of a config by its value, in place.

    Raises:
        ValueError: there is a cycle, a computed name, a resolver other than `eval`, or the result is too large.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.under_way: list[str] = []
        self.budget = MOST_INTERPOLATED

    def resolve(self) -> None:
        self._resolve_all(self.config)

    def _resolve_all(self, node: DictConfig | ListConfig) -> None:
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            self._resolve(node, key)

    def _resolve(self, parent: DictConfig | ListConfig, key: Any) -> None:
        child = parent._get_node(key)
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
            self._resolve_all(child)
            return
        text = child._value() if isinstance(child, Node) else None
        if not isinstance(text, str) or "${" not in text:
            return
        name = parent._get_full_key(key)
        if name in self.under_way:
            raise ValueError(f"{name} refers to itself: {' -> '.join([*self.under_way, name])}")
        if OTHER_RESOLVER.search(text):
            raise ValueError(f"{name}: only ${{key}} and ${{{RESOLVER}:...}} are known, not {text[:80]}")
        self.under_way.append(name)
        for reference in REFERENCE.findall(text):
            self._resolve_reference(parent, reference)
        self._replace(parent, key, name)
        self.under_way.pop()

    def _resolve_reference(self, parent: DictConfig | ListConfig, reference: str) -> None:
        """Resolve the value of a reference before it is used; OmegaConf refuses names that do not exist."""
        start: Any = self.config
        path = reference
        if reference.startswith("."):
            start = parent
            for _ in range(len(reference) - len(reference.lstrip(".")) - 1):
                start = start._get_parent() if start is not None else None
            path = reference.lstrip(".")
        for name in filter(None, re.split(r"[.\[\]]+", path)):
            key: Any = name
            if isinstance(start, ListConfig):
                key = int(name) if name.isdigit() and int(name) < len(start) else None
            if not isinstance(start, DictConfig | ListConfig) or key is None or start._get_node(key) is None:
                return
            self._resolve(start, key)
            start = start._get_node(key)

    def _replace(self, parent: DictConfig | ListConfig, key: Any, name: str) -> None:
        value = parent[key]
        if isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=False)
        self.budget -= values(value)
        if self.budget < 0:
            raise ValueError(f"{name}: interpolations would put in more than {MOST_INTERPOLATED} values")
        if isinstance(value, str) and len(value) > MOST_LETTERS:
            raise ValueError(f"{name}: a value may have {MOST_LETTERS} characters")
        parent[key] = value
