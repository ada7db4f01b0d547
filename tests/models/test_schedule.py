"""The schedules that are computed from integers: every level gets what it can take."""

import pytest

from models.video_vae_v3.modules.schedule import (
    DIRECT,
    F23,
    F43,
    LARGE,
    LevelSchedule,
    LevelShape,
    default_schedule,
    filled_slice,
    level_shapes,
)

RELEASE = level_shapes((128, 256, 512, 512), 2)
DIRECTLY = LevelSchedule()


def test_shapes_of_the_released_vae():
    assert RELEASE == (LevelShape(256, 1), LevelShape(512, 1), LevelShape(512, 2), LevelShape(512, 4))
    assert level_shapes((8, 16), 1) == (LevelShape(16, 1), LevelShape(16, 2))


@pytest.mark.parametrize("winograd", [F23, F43])
def test_a_slice_that_fills_every_large_level_is_the_shortest_that_does(winograd):
    frames = filled_slice(RELEASE, 720, 1280, winograd)
    assert frames == 2 * winograd  # 180x320 is the smallest large level, where time is halved once
    filtered = LevelSchedule(winograd, winograd)
    assert default_schedule(RELEASE, 720, 1280, frames, winograd).levels == (filtered, filtered, filtered, DIRECTLY)
    shorter = default_schedule(RELEASE, 720, 1280, frames - 4, winograd) if frames > 4 else None
    assert shorter is None or shorter.levels == (filtered, filtered, DIRECTLY, DIRECTLY)


def test_small_pictures_images_and_direct_schedules_filter_nothing():
    for schedule in (
        default_schedule(RELEASE, 64, 96, 4, F43),
        default_schedule(RELEASE, 720, 1280, 8, DIRECT),
        default_schedule(RELEASE, 720, 1280, 8, F43, single_frame=True),
    ):
        assert set(schedule.levels) == {DIRECTLY}


def test_the_last_level_is_never_filtered():
    assert default_schedule(RELEASE, 4320, 7680, None, F43).levels[-1] == DIRECTLY
    assert (4320 >> 3) * (7680 >> 3) > LARGE


@pytest.mark.parametrize("limit", [1, 2**20, 2**24, 2**26, 2**40])
def test_a_bound_holds_for_the_input_of_direct_convolutions(limit):
    schedule = default_schedule(RELEASE, 256, 256, 16, DIRECT, most_numbers=limit)
    for level, (chosen, shape) in enumerate(zip(schedule.levels, RELEASE, strict=True)):
        frames = chosen.group or 16 // shape.time
        numbers = (frames + 2) * (256 >> level) ** 2 * shape.channels
        least = 2 if level in (1, 2) else 1  # two frames become one where time is halved
        assert numbers <= limit or frames <= least
        assert frames % least == 0


def test_a_winograd_level_needs_its_group():
    with pytest.raises(ValueError, match="groups of 4"):
        LevelSchedule(2, F43)
