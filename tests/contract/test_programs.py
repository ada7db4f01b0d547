"""Every program ends through `projects.program.run_program`: an expected error is one sentence and a status."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The calls that a program's last line may pass on to `sys.exit`. `start` ends a restoration by itself: it also works
# before PyTorch is imported and with several processes. Tests of attacks and of the launcher hold how it ends.
ENDINGS = {"run_program", "start"}


def is_guard(node: ast.AST) -> bool:
    """Whether this is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def ends_well(guard: ast.If) -> bool:
    """Whether all that follows the guard is `sys.exit(run_program(...))`, or `start` in place of it."""
    if len(guard.body) != 1 or not isinstance(guard.body[0], ast.Expr):
        return False
    leave = guard.body[0].value
    if not (isinstance(leave, ast.Call) and ast.unparse(leave.func) == "sys.exit" and len(leave.args) == 1):
        return False
    return isinstance(leave.args[0], ast.Call) and ast.unparse(leave.args[0].func) in ENDINGS


def badly_ended(folder: Path) -> list[str]:
    """The programs below a folder that end otherwise, as FILE:LINE."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        guards = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if is_guard(node)]
        found += [f"{file.relative_to(folder)}:{guard.lineno}" for guard in guards if not ends_well(guard)]
    return found


def test_every_program_ends_through_run_program():
    programs = [file for file in (ROOT / "projects").rglob("*.py") if '__name__ == "__main__"' in file.read_text()]
    assert {"benchmark.py", "demo.py", "download.py", "train.py"} <= {file.name for file in programs}
    assert badly_ended(ROOT / "projects") == []


@pytest.mark.parametrize(
    ("ending", "well"),
    [
        ("sys.exit(run_program(main))", True),
        ("sys.exit(run_program(partial(main, started=STARTED)))", True),
        ("sys.exit(start('seedvr2_3b'))", True),
        ("sys.exit(main())", False),
        ("main()", False),
        ("run_program(main)", False),  # its status would be lost
        ("prepare(); sys.exit(run_program(main))", False),  # the first call has no ending
    ],
)
def test_what_counts_as_an_ending(ending, well, tmp_path):
    (tmp_path / "program.py").write_text(f"import sys\n\nif __name__ == '__main__':\n    {ending}\n")
    assert badly_ended(tmp_path) == ([] if well else ["program.py:3"])


def declared_flags(source: str) -> set[tuple[str, str]]:
    """(flag, its help) of every flag that a source declares with `add_argument`, or with `add`, as programs name it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("add", "add_argument"):
            flag = node.args and isinstance(node.args[0], ast.Constant) and str(node.args[0].value)
            texts = [ast.unparse(word.value) for word in node.keywords if word.arg == "help"]
            if flag and flag.startswith("--") and texts:
                found.add((flag, texts[0]))
    return found


def test_no_two_programs_declare_the_same_flag():
    """A flag that means the same in several programs has one place (`projects/program.py`)."""
    places: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "projects").rglob("*.py")):
        for flag in declared_flags(path.read_text(encoding="utf-8")):
            places.setdefault(flag, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 100, "flags are no longer found"
    assert {flag: where for flag, where in places.items() if len(where) > 1} == {}


def test_no_program_takes_an_empty_path_for_the_current_folder():
    """Flags of paths have the types that refuse an empty text, such as that of a shell variable that is not set."""
    sources = {file: file.read_text(encoding="utf-8") for file in (ROOT / "projects").rglob("*.py")}
    assert sum(source.count("type=to_path") for source in sources.values()) > 30, "flags of paths are no longer found"
    assert [file.name for file, source in sources.items() if "type=Path" in source] == []
