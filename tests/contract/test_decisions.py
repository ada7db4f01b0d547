"""Every page of docs/decisions has one form, so that a reader finds the same answer in the same place."""

import re

import pytest

from tests.conftest import ROOT

FORM = ["Question", "Choices", "Evidence", "Decision", "Cost"]
LATER = ("0010", "0011")  # not in this form yet
PAGES = [p for p in sorted((ROOT / "docs" / "decisions").glob("*.md")) if p.stem[:4] not in LATER]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_has_the_five_parts_in_order(page):
    text = page.read_text()
    assert re.match(rf"# {page.stem[:4]}: ", text)
    assert re.findall(rf"^\*\*({'|'.join(FORM)})\.\*\*", text, flags=re.M) == FORM


def test_numbers_of_decisions_are_used_once():
    numbers = [page.stem[:4] for page in PAGES]
    assert len(numbers) == len(set(numbers))
