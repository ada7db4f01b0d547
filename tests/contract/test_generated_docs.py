"""What programs write into the documentation is what they would write now, and its numbers hold."""

import pytest

from projects import hardware_table
from projects.generated_docs import BLOCKS, rewritten
from projects.video_diffusion_sr.memory.budget import choose_plan
from projects.video_diffusion_sr.presets import SEEDVR2_3B
from tests.conftest import ROOT

REFRESH = "python projects/generated_docs.py --write"


@pytest.mark.parametrize("page", BLOCKS)
def test_generated_blocks_are_up_to_date(page):
    text = (ROOT / page).read_text()
    assert rewritten(page, text) == text, REFRESH


def test_a_page_without_its_block_is_an_error():
    with pytest.raises(ValueError, match="hardware"):
        rewritten("README.md", "# no table")


def test_the_least_vram_of_the_table_is_the_least_that_works():
    budget = hardware_table.budget_of(SEEDVR2_3B)
    for clip in hardware_table.clips_of(hardware_table.SIZES["720p"]):
        work = budget.work(clip)
        fastest, exact, least = hardware_table.needs(budget, clip)
        assert fastest >= exact >= least
        assert choose_plan(exact, work).schedule.tile is None
        assert choose_plan(exact - 0.1, work).schedule.tile is not None
        assert choose_plan(least, work)
        with pytest.raises(ValueError, match=f"needs {least:.1f} GiB"):
            choose_plan(least - 0.1, work)
