"""The pictures of the architecture page show the schedule that is followed, and are those in the repository."""

import xml.etree.ElementTree as ET

import pytest

from models.video_vae_v3.modules.schedule import DIRECT, F23, F43, default_schedule
from projects import architecture_pictures
from projects.architecture_pictures import RELEASED, steps
from tests.conftest import ROOT


@pytest.mark.parametrize("winograd", [DIRECT, F23, F43])
@pytest.mark.parametrize("decoder", [False, True])
def test_every_frame_goes_through_every_level_once_and_never_before_its_input(winograd, decoder):
    schedule = default_schedule(RELEASED, 720, 1280, 16, winograd)
    done = [0] * len(RELEASED)
    for step in steps(schedule, RELEASED, decoder):
        assert step.start == done[step.level], "groups come in order"
        assert step.frames == schedule.levels[step.level].group or not schedule.levels[step.level].winograd
        done[step.level] += step.frames
        source = step.level + (1 if decoder else -1)
        if 0 <= source < len(RELEASED):
            assert done[source] * RELEASED[source].time >= done[step.level] * RELEASED[step.level].time
    assert [count * shape.time for count, shape in zip(done, RELEASED, strict=True)] == [16] * len(RELEASED)


def test_decoding_goes_depth_first():
    """With groups, full resolution begins before the level below is through: no level's result exists whole."""
    order = [step.level for step in steps(default_schedule(RELEASED, 720, 1280, 16, F43), RELEASED, decoder=True)]
    assert order.index(0) < len(order) - 1 - order[::-1].index(1)


def test_the_pictures_in_the_repository_are_current(tmp_path):
    assert architecture_pictures.main(["--output", str(tmp_path)]) == 0
    for name in ("schedule.svg", "rows.svg"):
        drawn = (tmp_path / name).read_text()
        ET.fromstring(drawn)
        assert (ROOT / "docs" / "images" / name).read_text() == drawn, "run projects/architecture_pictures.py"
