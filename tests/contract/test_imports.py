"""Who may import whom: integrations, seedvr, projects, then models, data, common; models use kernels and logger."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("integrations", "seedvr", "projects", "models", "common", "data")


def imports_of(source: str, package: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, wherever in it; relative imports made absolute."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func) in ("importlib.import_module", "__import__"):
                found.append((node.lineno, str(node.args[0].value)))
    return found


def within(name: str, *prefixes: str) -> bool:
    """Whether a dotted name is one of these or lies in it."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def breach(path: str, name: str) -> str | None:
    """Why the file at this path, relative to the root, may not import that name; None if it may."""
    layer = path.split("/")[0]
    if within(name, "torch.distributed") and not path.startswith("common/distributed/"):
        return "only common/distributed knows torch.distributed"
    if layer == "models":
        if within(name, "omegaconf"):
            return "models take plain arguments, not configurations"
        if within(name, "data", "projects"):
            return "models stand below data and projects"
        if within(name, "common") and not within(name, "common.kernels", "common.logger"):
            return "of common, models use kernels and logger only"
    if layer == "common" and within(name, "models", "data", "projects"):
        return "common stands below everything"
    if layer == "data" and within(name, "models", "projects", "common.distributed"):
        return "data stands below models, projects and ranks"
    if layer == "integrations" and within(name, "models", "data", "projects", "common"):
        return "integrations run where only the package seedvr is installed"
    if layer not in ("seedvr", "integrations") and within(name, "seedvr"):
        return "the package seedvr stands above the programs"
    if within(name, "tests"):
        return "the program does not need its tests"
    return None


def breaches(root: Path) -> list[str]:
    """Every import below the root that goes against the rules, as FILE:LINE name: why."""
    found = []
    for layer in PACKAGES:
        for file in sorted((root / layer).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            package = ".".join(Path(path).parent.parts)
            for line, name in imports_of(file.read_text(encoding="utf-8"), package):
                if why := breach(path, name):
                    found.append(f"{path}:{line} {name}: {why}")
    return found


def test_imports_go_downward_only():
    assert not breaches(ROOT), "\n" + "\n".join(breaches(ROOT))


@pytest.mark.parametrize(
    ("path", "line", "allowed"),
    [
        ("models/nadit/a.py", "import omegaconf", False),
        ("models/nadit/a.py", "from omegaconf import OmegaConf", False),
        ("models/nadit/a.py", "from common.kernels import attention", True),
        ("models/nadit/a.py", "from common.logger import get_logger", True),
        ("models/nadit/a.py", "from common.config import load_config", False),
        ("models/nadit/a.py", "from common import config", False),
        ("models/nadit/a.py", "from common import kernels", True),
        ("data/video/a.py", "from ..image import transforms", True),
        ("models/nadit/a.py", "from . import b", True),
        ("models/nadit/a.py", "def f():\n    import torch.distributed as dist", False),
        ("models/nadit/a.py", "from torch import distributed", False),
        ("models/nadit/a.py", "import importlib\nimportlib.import_module('data.video')", False),
        ("common/a.py", "import projects.download", False),
        ("common/a.py", "from torch.distributed.fsdp import fully_shard", False),
        ("common/distributed/a.py", "from torch.distributed.fsdp import fully_shard", True),
        ("data/a.py", "from common.distributed import process", False),
        ("data/a.py", "from common.logger import get_logger", True),
        ("data/a.py", "import models", False),
        ("projects/a.py", "import models, data, common, omegaconf", True),
        ("projects/a.py", "import torch.distributed", False),
        ("projects/a.py", "import seedvr", False),
        ("seedvr/a.py", "from projects.video_diffusion_sr import build", True),
        ("seedvr/a.py", "import torch.distributed", False),
        ("projects/a.py", "from tests.conftest import seeded", False),
        ("integrations/a.py", "import seedvr", True),
        ("integrations/a.py", "from common.logger import get_logger", False),
    ],
)
def test_the_rules_themselves(tmp_path, path, line, allowed):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    assert (not breaches(tmp_path)) is allowed


def test_nothing_prints_in_the_libraries():
    found = []
    for layer in ("common", "models", "data"):
        for file in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"use the logger instead of print: {found}"
