"""Builds the wheel: it copies the repository's packages to `seedvr/_engine` and rewrites their imports.

In the repository, `models`, `common`, `data` and `projects` are top-level packages, which research code imports. In
site-packages such names would collide with other packages, so they are installed as `seedvr._engine.models` and so on.
Only imports, changes of `sys.path` and commands in messages are rewritten. docs/decisions/0008-packaging.md compares
this with alternatives.
"""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "common", "data", "projects")
INSIDE = "seedvr._engine"
FOLDER = INSIDE.replace(".", "/")
DATA = ("configs_*/*.yaml", "models/**/*.yaml", "ckpts/tiny/*")

# Commands in messages and help texts: (pattern of the command in a checkout, command of the installed package).
COMMANDS = (
    (r"python projects/(download|train|evaluate)\.py", r"seedvr \1"),
    (r"projects/(download|train|evaluate)\.py", r"seedvr \1"),
)


class BuildEngine(build_py):
    """setuptools' build_py, which also installs the engine."""

    def run(self) -> None:
        """Remove the files of an earlier build, build `seedvr`, and copy the engine into it."""
        target = Path(self.build_lib)
        if not self.editable_mode:
            shutil.rmtree(target / "seedvr", ignore_errors=True)
        super().run()
        if not self.editable_mode:  # an editable install runs from the checkout, as it is
            rewrite(target / "seedvr", (target / "seedvr").rglob("*.py"))
            copy_engine(ROOT, target / FOLDER)

    def get_source_files(self) -> list[str]:
        """The files of a source distribution: those of `build_py`, the engine's, and this file."""
        files = [path for path in engine_files(ROOT)] + [Path(__file__)]
        return [*super().get_source_files(), *(str(path.relative_to(ROOT)) for path in files)]


def engine_files(root: Path) -> Iterator[Path]:
    """The files of the repository that are installed: the modules of `PACKAGES` and the data files of `DATA`."""
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))
    for pattern in DATA:
        yield from sorted(root.glob(pattern))


def copy_engine(root: Path, target: Path) -> None:
    """Copy the engine of the repository `root` to the folder `target`, which becomes a package."""
    for source in engine_files(root):
        copy = target / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    (target / "__init__.py").write_text(
        '"""The packages of the repository, as `seedvr` uses them: not an interface."""\n'
    )
    rewrite(target, target.rglob("*.py"))


def rewrite(folder: Path, files: Iterator[Path]) -> None:
    """Rewrite files in place to their installed form; `folder` is the folder to which names in errors are relative."""
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(installed_source(text, str(file.relative_to(folder))), encoding="utf-8")


def installed_source(text: str, name: str) -> str:
    """The source of a module in its installed form.

    Args:
        text: the source in the repository.
        name: the name of the file, for errors.

    Raises:
        ValueError: an import binds the name of one of `PACKAGES` (`import common.seed`), so it cannot be redirected;
            write `from common import seed`.
    """
    lines = text.splitlines(keepends=True)
    for node in sorted(ast.walk(ast.parse(text)), key=lambda node: getattr(node, "lineno", 0), reverse=True):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and is_ours(node.module):
            replace(lines, node.lineno, rf"from\s+{re.escape(node.module)}\b", f"from {INSIDE}.{node.module}")
        elif isinstance(node, ast.Import):
            for alias in (alias for alias in node.names if is_ours(alias.name)):
                if alias.asname is None:
                    raise ValueError(
                        f"{name}:{node.lineno} `import {alias.name}` cannot be installed; use from ... import"
                    )
                replace(lines, alias.lineno, rf"\b{re.escape(alias.name)}\s+as\b", f"{INSIDE}.{alias.name} as")
        elif is_path_change(node):
            lines[node.lineno - 1] = f"{' ' * node.col_offset}pass  # the package is not imported by path\n"
            lines[node.lineno : node.end_lineno] = [""] * (node.end_lineno - node.lineno)
    text = "".join(lines)
    for pattern, command in COMMANDS:
        text = re.sub(pattern, command, text)
    return text


def is_ours(module: str | None) -> bool:
    """Whether a dotted module name is in one of `PACKAGES`."""
    return module is not None and module.split(".")[0] in PACKAGES


def is_path_change(node: ast.AST) -> bool:
    """Whether a statement inserts a folder into `sys.path`, as the scripts do with the repository."""
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("sys.path.insert(")


def replace(lines: list[str], number: int, pattern: str, words: str) -> None:
    """Replace the first match of a pattern in line `number`, counted from 1; AssertionError if there is none."""
    changed, count = re.subn(pattern, words, lines[number - 1], count=1)
    assert count == 1, (number, lines[number - 1])
    lines[number - 1] = changed
