"""Memory plans under the Python interface: the first clip places the networks, and a later plan may do it anew."""

from dataclasses import replace

import numpy as np
import pytest

import seedvr
import seedvr.engine as engine
from projects.video_diffusion_sr.memory.budget import make_budget
from tests.seeded_weights import SMALL, seeded_weights

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
SIZE = {"size": (48, 32)}


@pytest.fixture
def settings(tmp_path) -> dict:
    return {"device": "cpu", "ckpt_dir": seeded_weights(tmp_path), "overrides": SMALL}


@pytest.fixture
def budgeted(monkeypatch):
    """A bound as on a GPU: all the memory there is, or what `vram` says."""

    def budget(run, parallel):
        return make_budget(run, parallel, run.request.vram or 1000.0)

    monkeypatch.setattr(engine, "read_budget", budget)


def test_networks_are_placed_at_the_first_clip_and_replaced_only_where_a_plan_needs_it(settings, budgeted, monkeypatch):
    restorer = seedvr.load("seedvr2_tiny", **settings)
    inner = restorer._engine
    assert inner._restorer is None
    offload, plan = "none", inner._plan
    monkeypatch.setattr(inner, "_plan", lambda *clip: replace(plan(*clip), offload=offload))
    expected = restorer(FRAMES, **SIZE)
    first = inner._restorer
    assert first is not None and np.array_equal(restorer(FRAMES, **SIZE), expected) and inner._restorer is first
    offload = "models"
    assert np.array_equal(restorer(FRAMES, **SIZE), expected)
    second = inner._restorer
    assert second is not first
    offload = "none"  # networks that can move can stay, too
    assert np.array_equal(restorer(FRAMES, **SIZE), expected) and inner._restorer is second


def test_a_clip_that_does_not_fit_is_a_memory_plan_error_and_the_next_one_runs(settings, budgeted):
    restorer = seedvr.load("seedvr2_tiny", vram=1.0, **settings)
    with pytest.raises(seedvr.MemoryPlanError, match="do not fit into 1 GiB"):
        restorer(FRAMES, size=(4096, 4096))
    assert restorer(FRAMES, **SIZE).shape == (5, 32, 48, 3)


def test_a_plan_without_a_length_needs_a_window(settings, budgeted):
    frames = list(seedvr.load("seedvr2_tiny", window=9, **settings).stream(FRAMES, **SIZE))
    assert np.array_equal(np.stack(frames), seedvr.load("seedvr2_tiny", window=9, **settings)(FRAMES, **SIZE))
