"""Limits of size, no state in modules, no import circles; what does not keep them yet is listed by name.

The lists may only become shorter: an entry that is no longer needed fails the test, too.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.contract.test_imports import PACKAGES, imports_of

MOST_PARAMETERS, MOST_CLASS_LINES, MOST_FUNCTION_LINES, MOST_FILE_LINES = 7, 200, 50, 300

# Arguments that others fixed: the keys of a released YAML, a public call, the inputs of a ComfyUI node.
PROMISED_PARAMETERS = {
    "integrations/comfyui/nodes.py LoadSeedVR.load",
    "integrations/comfyui/nodes.py RestoreSeedVR.restore",
    "models/dit/nadit.py NaDiT.__init__",
    "models/dit_v2/nadit.py NaDiT.__init__",
    "models/video_vae_v3/modules/attn_video_vae.py VideoAutoencoderKL.__init__",
    "seedvr/loading.py load",
    "seedvr/pipeline.py SeedVRPipeline.__call__",
    "seedvr/restorer.py Restorer.restore_file",  # as docs/python.md promises them
}
PARAMETERS_YET: set[str] = set()
CLASSES_YET: set[str] = set()
FUNCTIONS_YET = {
    "models/dit/nadit.py NaDiT.__init__",  # a promised list of arguments, and their translation
    "models/dit_v2/nadit.py NaDiT.__init__",
    "seedvr/loading.py load",  # mostly what its arguments mean
}
FILES_YET: set[str] = set()
STATE_YET = {
    "common/kernels/attention.py fastest_backend",  # facts of the machine, looked up once
    "common/kernels/norm.py apex_available",
    "common/kernels/triton_support.py triton_available",
    "data/media/encoders.py try_hardware",  # starts the encoder of a GPU
    "data/colour/tone.py _table",  # results of pure functions, needed again for each frame
    "data/yuv/from_rgb.py coefficients",
    "data/yuv/to_rgb.py coefficients",
    "models/nadit/rope.py _frequencies",
}
CIRCLES_YET: set[str] = set()

CACHES = {"cache", "lru_cache", "cached_choice"}
CONTAINERS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "WeakKeyDictionary"}


@cache
def sources(root: Path) -> dict[str, ast.Module]:
    """Every module of the program, parsed, by its path below the root."""
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    return {file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every class and function with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from definitions(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from definitions(child, prefix)


def lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def parameters(node: ast.FunctionDef) -> int:
    """How many arguments a caller may give, `self` and `cls` left out."""
    named = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len(named) - (named[:1] in (["self"], ["cls"])) + len(node.args.kwonlyargs)


def is_kernel(path: str) -> bool:
    """Launch code passes what a kernel takes: pointers, sizes and strides."""
    return path.startswith("common/kernels/")


def too_large(root: Path) -> dict[str, set[str]]:
    """What is beyond each limit, as PATH NAME."""
    found: dict[str, set[str]] = {"parameters": set(), "classes": set(), "functions": set(), "files": set()}
    for path, tree in sources(root).items():
        if len((root / path).read_text(encoding="utf-8").splitlines()) > MOST_FILE_LINES:
            found["files"].add(path)
        for name, node in definitions(tree):
            if isinstance(node, ast.ClassDef):
                if lines(node) > MOST_CLASS_LINES:
                    found["classes"].add(f"{path} {name}")
            elif not is_kernel(path):
                if parameters(node) > MOST_PARAMETERS:
                    found["parameters"].add(f"{path} {name}")
                if lines(node) > MOST_FUNCTION_LINES:
                    found["functions"].add(f"{path} {name}")
    return found


def state(root: Path) -> set[str]:
    """Modules that remember something: `global`, caches, and containers that are not constants by their name."""
    found = set()
    for path, tree in sources(root).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                found |= {f"{path} {name}" for name in node.names}
        for name, node in definitions(tree):
            for decorator in getattr(node, "decorator_list", ()):
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                if ast.unparse(called).rpartition(".")[2] in CACHES:
                    found.add(f"{path} {name}")
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and is_container(node.value) and not is_constant(target.id):
                    found.add(f"{path} {target.id}")
        written = {ast.unparse(node.value) for node in ast.walk(tree) if writes_into(node)}
        found |= {f"{path} {name}" for name in written if name in module_names(tree)}
    return found


def is_container(value: ast.expr | None) -> bool:
    """Is this the display or the making of something that can be changed?"""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in CONTAINERS
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)


def is_constant(name: str) -> bool:
    return name.isupper() or name == "__all__"


def writes_into(node: ast.AST) -> bool:
    """Is this `name[...]` on the left of an assignment or of `del`?"""
    return isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)


def module_names(tree: ast.Module) -> set[str]:
    """Names that a module binds to containers at its top."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_container(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def circles(root: Path) -> set[str]:
    """Modules that import themselves by way of others, imports inside functions counted, those for types alone not."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree
               for path, tree in sources(root).items()}  # fmt: skip
    paths = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources(root)}
    graph = {}
    for module, tree in modules.items():
        package = module if paths[module].endswith("__init__.py") else module.rpartition(".")[0]
        text = (root / paths[module]).read_text(encoding="utf-8")
        if "TYPE_CHECKING" in text:
            text = ast.unparse(without_type_imports(tree))
        names = [name for _, name in imports_of(text, package)]
        # `from a.b import c` imports the module a.b.c where there is one, else a.b.
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = found & set(modules)
        graph[module].discard(module)
    circular = set()
    for start in graph:
        waiting, seen = list(graph[start]), set()
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph[module]
        if start in seen:
            circular.add(start)
    return circular


def without_type_imports(tree: ast.Module) -> ast.Module:
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, [])


def compare(found: set[str], known: set[str], limit: str) -> None:
    assert not found - known, f"{limit}: {', '.join(sorted(found - known))}"
    assert not known - found, f"these keep the rule now; take them off the list: {', '.join(sorted(known - found))}"


def test_functions_classes_and_files_keep_their_sizes():
    found = too_large(ROOT)
    compare(found["parameters"], PARAMETERS_YET | PROMISED_PARAMETERS, f"more than {MOST_PARAMETERS} parameters")
    compare(found["classes"], CLASSES_YET, f"classes above {MOST_CLASS_LINES} lines")
    compare(found["functions"], FUNCTIONS_YET, f"functions above {MOST_FUNCTION_LINES} lines")
    compare(found["files"], FILES_YET, f"files above {MOST_FILE_LINES} lines")


def test_modules_hold_no_state():
    compare(state(ROOT), STATE_YET, "what is shared is an argument")


def test_there_are_no_import_circles():
    compare(circles(ROOT), CIRCLES_YET, "modules that import themselves by way of others")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("seen = {}", "seen"),
        ("SEEN = {}\ndef f(x):\n    SEEN[x] = 1", "SEEN"),
        ("import functools\n@functools.cache\ndef f(x):\n    return x", "f"),
        ("count = 0\ndef f():\n    global count\n    count += 1", "count"),
        ("from collections import deque\nwaiting: deque[int] = deque()", "waiting"),
        ("NAMES = {'a': 1}\ndef f(x):\n    return NAMES[x]", None),
    ],
)
def test_state_is_seen(tmp_path, text, name):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "a.py").write_text(text + "\n")
    assert state(tmp_path) == (set() if name is None else {f"common/a.py {name}"})


def test_circles_and_sizes_are_seen(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("from common import a\n")
    (tmp_path / "common" / "a.py").write_text("def f():\n    from common.b import x\n")
    (tmp_path / "common" / "b.py").write_text("import common.a\n" + "def g(a, b, c, d, *, e, f, g, h): ...\n")
    (tmp_path / "common" / "c.py").write_text("import common.a\n" + "class C:\n" + "    x = 1\n" * MOST_FILE_LINES)
    assert circles(tmp_path) == {"common.a", "common.b"}
    assert too_large(tmp_path) == {
        "parameters": {"common/b.py g"}, "classes": {"common/c.py C"}, "functions": set(), "files": {"common/c.py"}
    }  # fmt: skip


def test_one_function_computes_the_sha256_of_a_file():
    calls = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "file_digest(" in path.read_text()
    ]
    assert [str(path.relative_to(ROOT)) for path in calls] == ["common/sha256.py"]
