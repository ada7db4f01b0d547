"""Links, paths and names of tests on every page exist; the README links every page; decisions have one form."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORM = ["Question", "Choices", "Evidence", "Decision", "Cost"]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
HISTORY = ("log", "0008-packaging")  # these pages name files of earlier versions
FOLDERS = ("common", "data", "docs", "models", "projects", "seedvr", "tests")
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *DECISIONS]


def links(page: Path) -> list[tuple[Path, str]]:
    """(file or folder, heading or "") of every relative link of a page."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    parts = [link.partition("#") for link in found if not link.startswith(("http:", "https:"))]
    return [((page.parent / path).resolve() if path else page, heading) for path, _, heading in parts]


def anchors(page: Path) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target, heading in links(page):
        assert target.exists(), target
        assert not heading or heading in anchors(target), f"{target.name}#{heading}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in HISTORY], ids=lambda page: page.stem)
def test_paths_and_tests_that_a_page_names_exist(page):
    text = page.read_text()
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*\w)`", text):
        assert not re.fullmatch(r"[\w./-]+", path) or "NAME" in path or "STAGE" in path or (ROOT / path).exists(), path
    for name in re.findall(r"`(test_\w+)`", text):
        assert re.search(rf"def {name}\(", TESTS), name


@pytest.mark.parametrize(
    ("folder", "heading"), [("projects/video_diffusion_sr", "The restoration pipeline"), ("data/media", "Media files")]
)
def test_the_architecture_names_every_module(folder, heading):
    section = (ROOT / "docs" / "architecture.md").read_text().partition(f"### {heading}\n")[2].partition("\n## ")[0]
    section = section.partition("\n### ")[0]
    named = [name.removesuffix("/") for name in re.findall(r"`([\w*/]+)`", section)]
    modules = {path.stem for path in (ROOT / folder).glob("[a-z]*.py")}
    assert [module for module in sorted(modules) if not any(fnmatch(module, name) for name in named)] == []


def test_the_readme_links_to_every_page():
    linked = {target for target, _ in links(ROOT / "README.md")}
    assert set((ROOT / "docs").glob("*.md")) <= linked


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_the_five_parts_in_order(page):
    text = page.read_text()
    assert text.startswith(f"# {page.stem[:4]}: ")
    assert re.findall(rf"^\*\*({'|'.join(FORM)})\.\*\*", text, flags=re.M) == FORM


def test_numbers_of_decisions_are_used_once():
    numbers = [page.stem[:4] for page in DECISIONS]
    assert len(numbers) == len(set(numbers))
