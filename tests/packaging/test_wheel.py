"""The wheel: what it puts into site-packages, and that it runs beside packages of the same names."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tools.wheel import PACKAGES, copy_engine, engine_files, installed_source, is_ours

DECOY = "raise ImportError('a package of somebody else was imported')\n"


@pytest.mark.parametrize(
    ("source", "installed"),
    [
        ("from common.seed import frame_noise\n", "from seedvr._engine.common.seed import frame_noise\n"),
        ("from models import nadit\n", "from seedvr._engine.models import nadit\n"),
        (
            "    # a\nfrom data import media as m  # why\n",
            "    # a\nfrom seedvr._engine.data import media as m  # why\n",
        ),
        ("import common.seed as s, os\n", "import seedvr._engine.common.seed as s, os\n"),
        ("def f():\n    from projects import demo\n", "def f():\n    from seedvr._engine.projects import demo\n"),
        ("from common.a import (\n    b,\n    c,\n)\n", "from seedvr._engine.common.a import (\n    b,\n    c,\n)\n"),
        (
            "x = 'from common.seed import y'\nfrom commons import z\n",
            "x = 'from common.seed import y'\nfrom commons import z\n",
        ),
        ("from .common import a\nfrom data_tools import b\n", "from .common import a\nfrom data_tools import b\n"),
        ("say = '`python projects/download.py X`'\n", "say = '`seedvr download X`'\n"),
        (
            "import sys\nsys.path.insert(0, str(1))\nx = 1\n",
            "import sys\npass  # the package is not imported by path\nx = 1\n",
        ),
    ],
)
def test_imports_are_redirected_and_nothing_else(source, installed):
    assert installed_source(source, "a.py") == installed


def test_an_import_that_would_bind_a_packages_name_stops_the_build():
    with pytest.raises(ValueError, match=r"a\.py:2 `import common\.seed` cannot be installed"):
        installed_source("import os\nimport common.seed\n", "a.py")


def test_every_module_of_the_engine_finds_only_the_engine(tmp_path):
    copy_engine(ROOT, tmp_path)
    modules = list(tmp_path.rglob("*.py"))
    assert len(modules) > 200
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not any(is_ours(name) for name in names), (module, names)
    copied = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT).as_posix() for path in engine_files(ROOT)} | {"__init__.py"}
    assert copied == expected
    assert {"configs_3b/main.yaml", "configs_tiny/main.yaml", "ckpts/tiny/dit.safetensors"} <= copied


def test_installed_files_are_probed_by_the_engine_itself(tmp_path, decoys):
    site = tmp_path / "site"
    copy_engine(ROOT, site / "seedvr" / "_engine")
    (site / "seedvr" / "__init__.py").touch()
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"  # as a host may do it: processes do not inherit that
        "from pathlib import Path; from seedvr._engine.data.media import probe_all\n"
        f"[(_, found)] = probe_all([Path({str(tmp_path / 'a.png')!r})]); print(found.width, found.height)"
    )
    assert run(sys.executable, "-c", code, cwd=decoys, env={"PYTHONPATH": str(decoys)}) == "20 10\n"


def finished(command, cwd, env) -> subprocess.CompletedProcess:
    """A command that has run."""
    env = {**os.environ, **(env or {})}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def run(*command, env=None, cwd=None) -> str:
    """What a command says on both streams; it must succeed."""
    said = finished(command, cwd, env)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout + said.stderr


def refused(command, cwd, env, code: int = 2) -> str:
    """What a command says that must end with a sentence and this exit code."""
    said = finished(command, cwd, env)
    assert said.returncode == code, said.stdout + said.stderr
    return said.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because a build leaves files in its tree; with what an old build left there."""
    tree = tmp_path_factory.mktemp("tree") / "seedvr"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "tests", "runs", "build", "dist", "*.egg-info", "demo_output", "*.pth", "*.pt"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    stale = tree / "build" / "lib" / "seedvr" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    out = tree.parent / "dist"
    run(sys.executable, "-m", "pip", "wheel", tree, "--no-deps", "--no-build-isolation", "--no-index", "-w", out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def decoys(tmp_path_factory) -> Path:
    """A host's folder with packages of its own that have the engine's names, also as __main__'s neighbours."""
    folder = tmp_path_factory.mktemp("host")
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(DECOY)
    return folder


@pytest.mark.slow
def test_the_wheel_adds_seedvr_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"seedvr"}
    assert "seedvr/_engine/ckpts/tiny/dit.safetensors" in names and "seedvr/stale.py" not in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["host", "site"])
def test_the_installed_command_runs_beside_packages_of_the_same_names(site, decoys, tmp_path, first):
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    order = [decoys, site] if first == "host" else [site, decoys]
    env = {"PYTHONPATH": os.pathsep.join(map(str, order)), "PYTHONSAFEPATH": "", "SEEDVR_CKPT_DIR": str(tmp_path / "w")}
    flags = ["--size", "64x48", "--device", "cpu"]
    command = site / "bin" / "seedvr"
    run(command, "restore", "--model", "seedvr2_tiny", "a.png", "out", *flags, env=env, cwd=tmp_path)
    script = ROOT / "projects" / "inference_seedvr2_tiny.py"
    run(sys.executable, script, "--video_path", "a.png", "--output_dir", "ours", *flags, cwd=tmp_path)
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "ours" / "a.png").read_bytes()
    version = run(command, "--version", "--verbose", env=env, cwd=decoys)
    assert "torch" in version and str(tmp_path / "w") in version
    planned = run(command, "plan", "--model", "seedvr2_3b", tmp_path / "a.png", "--vram", "24", env=env, cwd=decoys)
    assert "32x24 ->" in planned and "predicted peak" in planned
    for program in ("download", "evaluate", "train", "restore"):
        assert "usage:" in run(command, program, "--help", env=env, cwd=decoys)


@pytest.mark.slow
def test_the_installed_program_names_its_own_commands_and_folder(site, decoys, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    env = {"PYTHONPATH": f"{decoys}{os.pathsep}{site}", "SEEDVR_CKPT_DIR": str(tmp_path / "none")}
    said = refused([site / "bin" / "seedvr", "restore", "a.png", "out", "--device", "cpu"], tmp_path, env)
    assert "`seedvr download seedvr2_3b`" in said
    assert str(tmp_path / "none" / "seedvr2_ema_3b.pth") in said


@pytest.mark.slow
def test_the_base_install_runs_without_the_extras(site, tmp_path):
    for absent in ("peft", "tensorboard", "mediapy", "skimage", "gguf", "pillow_heif"):
        (tmp_path / f"{absent}.py").write_text(f"raise ModuleNotFoundError('no {absent}', name='{absent}')\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{site}"}
    restore = ["restore", "--model", "seedvr2_tiny", "a.png", "out", "--size", "32x32", "--device", "cpu"]
    run(site / "bin" / "seedvr", *restore, env=env, cwd=tmp_path)
    command = [site / "bin" / "seedvr", "evaluate", "--results", "out", "--ground_truth", "out"]
    said = refused(command, tmp_path, env, code=1)  # as every error of `projects.program.run_program`
    assert "pip install 'seedvr[eval]'" in said


def test_importing_the_package_is_quick_and_loads_no_torch():
    code = (
        "import sys, time; start = time.perf_counter(); import seedvr; seconds = time.perf_counter() - start\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'\n"
        "assert {'load', 'presets', 'Restorer'} <= set(dir(seedvr))\n"
        "print(seconds)"
    )
    times = [float(run(sys.executable, "-c", code, cwd=ROOT)) for _ in range(3)]
    assert min(times) < 0.2
