"""The plan of a batch: full, in the asked shares, a function of (seed, step), the same load on every rank."""

from collections import Counter

import numpy as np
import pytest
from omegaconf import OmegaConf

from common.config import load_config
from data.training.motion import MotionConfig, animate, camera_path
from data.training.packing import WINDOW, BatchPlanner
from data.training.sampling import ClipShape, slot_generator
from data.training.schedule import ShapeSchedule


def shape_list(path: str) -> tuple[list[ClipShape], int]:
    """The shapes of a training YAML and its budget."""
    data = OmegaConf.to_container(load_config(path))["data"]
    return [ClipShape(**{k: v for k, v in s.items() if k != "aspects"}) for s in data["shapes"]], data["budget_pixels"]


def planner(path: str) -> tuple[BatchPlanner, list[float]]:
    """For the last part of a shipped recipe."""
    shapes, budget = shape_list(path)
    last = [shape for shape in shapes if shape.end is None]
    weights = [shape.weight for shape in last]
    return BatchPlanner([shape.pixels for shape in last], weights, budget, 3), weights


MIXES = [
    ([5, 9, 20], [2, 1, 1], 60),
    ([1, 9, 21], [0.4, 0.3, 0.3], 22),  # one of the largest is nearly a whole batch
    ([40, 30], [1, 1], 100),  # of two alike the fullest batches hold both
    ([100, 1], [1, 1], 100),
    ([7], [1], 22),
    ([384, 277, 150, 81, 33, 12], [1, 5, 2, 4, 3, 1], 1000),
]


def check(plans: BatchPlanner, weights: list[float]) -> None:
    """Fill above 90 %, never over the budget, shares within 2 % of the weights."""
    steps = range(30 * WINDOW)
    batches = [plans.plan(step) for step in steps]
    used = np.array([sum(plans.sizes[slot.choice] for slot in batch) for batch in batches])
    assert used.min() > 0 and used.max() <= plans.budget
    np.testing.assert_allclose(used / plans.budget, [plans.fill(step) for step in steps])
    assert used.mean() / plans.budget > 0.9
    counts = Counter(slot.choice for batch in batches for slot in batch)
    for choice, weight in enumerate(weights):
        assert counts[choice] / counts.total() == pytest.approx(weight / sum(weights), rel=0.02)


@pytest.mark.parametrize(("sizes", "weights", "budget"), MIXES)
def test_batches_are_full_and_hold_what_the_weights_say(sizes, weights, budget):
    check(BatchPlanner(sizes, weights, budget, 3), weights)


@pytest.mark.parametrize("stage", ["diffusion", "distill", "adversarial", "vae"])
def test_the_batches_of_the_shipped_recipes(stage):
    check(*planner(f"configs_train/{stage}.yaml"))


def test_plan_depends_on_seed_and_step_alone():
    there, again, other = (BatchPlanner([5, 9, 20], [2, 1, 1], 60, seed) for seed in (3, 3, 4))
    expected = [there.plan(step) for step in range(3 * WINDOW)]
    for step in reversed(range(3 * WINDOW)):  # in any order, from any step
        assert again.plan(step) == expected[step]
    assert [other.plan(step) for step in range(WINDOW)] != expected[:WINDOW]


def test_compositions_are_few_and_in_one_order():
    plans = [tuple(s.choice for s in BatchPlanner(*MIXES[0], seed=1).plan(step)) for step in range(2 * WINDOW)]
    assert all(list(plan) == sorted(plan) for plan in plans) and len(set(plans)) < 12


def test_ranks_carry_the_same_load_and_never_share_a_slot():
    plans = [BatchPlanner([5, 9], [1, 1], 60, 0).plan(17, rank, 4) for rank in range(4)]
    assert len({tuple(slot.choice for slot in plan) for plan in plans}) == 1
    numbers = [slot.number for plan in plans for slot in plan]
    assert sorted(numbers) == list(range(len(numbers)))


def test_an_empty_budget_is_said(caplog):
    assert BatchPlanner([6], [1], 10, 0).warn_if_loose() == pytest.approx(0.6)
    assert "fill 60 %" in caplog.text


def test_shapes_follow_one_another_by_their_steps():
    small, large, late = ClipShape(1, 4, 4, end=100), ClipShape(5, 4, 4, start=100), ClipShape(9, 4, 4, 2.0, start=150)
    schedule = ShapeSchedule([small, large, late], 200, 0)
    seen = [{slot.choice for slot in schedule.plan(step)} for step in range(400)]
    assert set.union(*seen[:100]) == {0} and set.union(*seen[100:150]) == {1} and set.union(*seen[150:]) == {1, 2}
    assert 0 < schedule.fill(399) <= 1
    with pytest.raises(ValueError, match="from step 100 on"):
        ShapeSchedule([small], 200, 0)


def test_the_curriculum_of_the_paper_is_a_schedule():
    shapes, budget = shape_list("configs_train/diffusion_from_scratch.yaml")
    schedule = ShapeSchedule(shapes, budget, 0)
    largest = [
        max((s for s in shapes if s.used_in(step)), key=lambda s: s.pixels) for step in (0, 40000, 80000, 120000)
    ]
    assert [(s.frames, s.height) for s in largest] == [(5, 256), (9, 512), (21, 768), (21, 768)]
    assert {shapes[slot.choice].frames for slot in schedule.plan(50000)} <= {1, 9}


def test_draws_of_samples_are_independent():
    draws = {slot_generator(s, t, k).integers(2**62) for s in range(4) for t in range(20) for k in range(20)}
    assert len(draws) == 4 * 20 * 20


def test_impossible_plans_are_refused():
    with pytest.raises(ValueError, match="budget"):
        BatchPlanner([100], [1], 99, 0)
    with pytest.raises(ValueError, match="rank 2"):
        BatchPlanner([1], [1], 9, 0).plan(0, rank=2, world=2)
    with pytest.raises(ValueError, match="one is positive"):
        BatchPlanner([1], [0], 9, 0)


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
