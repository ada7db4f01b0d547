"""The plan of a batch: a function of (seed, step), shared load, separate slots, within the budget."""

from collections import Counter

import numpy as np
import pytest

from data.training.motion import MotionConfig, animate, camera_path
from data.training.sampling import plan_slots, slot_generator


def test_plan_depends_on_seed_and_step_alone_and_keeps_the_budget():
    sizes, weights = [5, 9, 20], [2, 1, 1]
    for step in range(50):
        plan = plan_slots(sizes, weights, 60, 3, step)
        assert plan == plan_slots(sizes, weights, 60, 3, step)
        used = sum(sizes[slot.choice] for slot in plan)
        assert 60 - max(sizes) < used <= 60
    assert plan_slots(sizes, weights, 60, 3, 1) != plan_slots(sizes, weights, 60, 4, 1)


def test_ranks_carry_the_same_load_and_never_share_a_slot():
    plans = [plan_slots([5, 9], [1, 1], 60, 0, 17, rank, 4) for rank in range(4)]
    assert len({tuple(slot.choice for slot in plan) for plan in plans}) == 1
    numbers = [slot.number for plan in plans for slot in plan]
    assert sorted(numbers) == list(range(len(numbers)))


def test_weights_are_frequencies():
    counts = Counter(s.choice for step in range(400) for s in plan_slots([4, 4], [3, 1], 40, 0, step))
    assert counts[0] / counts.total() == pytest.approx(0.75, abs=0.03)


def test_sample_dice_are_independent():
    draws = {slot_generator(s, t, k).integers(2**62) for s in range(4) for t in range(20) for k in range(20)}
    assert len(draws) == 4 * 20 * 20


def test_impossible_plans_are_refused():
    with pytest.raises(ValueError, match="budget"):
        plan_slots([100], [1], 99, 0, 0)
    with pytest.raises(ValueError, match="rank 2"):
        plan_slots([1], [1], 9, 0, 0, rank=2, world=2)


def test_camera_stays_inside_a_large_photograph_and_moves_smoothly():
    config = MotionConfig(turn=0, shake=0)
    for seed in range(40):
        path = camera_path(512, 512, 17, 128, 128, np.random.default_rng(seed), config)
        corners = np.array([[0, 0, 1], [127, 0, 1], [0, 127, 1], [127, 127, 1]]).T
        points = path @ corners  # T 2 4
        assert points.min() > -1 and points.max() < 512
        centres = path @ np.array([63.5, 63.5, 1])
        assert np.abs(np.diff(centres, axis=0)).max() <= config.pan + 1e-9
        assert np.abs(np.diff(centres, 2, axis=0)).max() < 1e-6


def test_camera_at_rest_copies_the_photograph():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)
    clip = animate(image, 3, 64, 80, rng, MotionConfig(still=1.0, scale=(1.0, 1.0)))
    np.testing.assert_array_equal(clip, np.stack([image] * 3))


def test_moving_camera_changes_frames_a_little():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    clip = animate(ramp, 9, 64, 64, np.random.default_rng(2), MotionConfig(still=0.0)).astype(int)
    steps = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 8 and steps.max() > 0
