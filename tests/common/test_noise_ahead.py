"""Noise that a thread draws: the same numbers as without one, whatever was expected."""

import threading
import time

import pytest
import torch

from common.noise_ahead import NoiseAhead
from common.seed import frame_noise

SHAPE = 3, 5, 16


@pytest.mark.parametrize("expected", [[], [(0, 4)], [(2, 2), (0, 3)], [(7, 2)]])
@pytest.mark.parametrize("windows", [[(0, 4), (2, 4), (4, 1)], [(0, 1)], [(5, 3)]])
def test_what_is_expected_changes_no_number(expected, windows):
    with NoiseAhead(3, "start", SHAPE, torch.device("cpu")) as noise:
        for span in expected:
            noise.expect(*span)
        for first, frames in windows:
            assert torch.equal(noise.take(first, frames), frame_noise(3, "start", first, frames, *SHAPE))


def test_drawing_ends_with_the_context(monkeypatch):
    """After an error nothing more is drawn, and no thread is left."""
    drawn, begun, until = [], threading.Event(), time.monotonic() + 60

    def slowly(seed, kind, frame, *shape):
        drawn.append(frame)
        begun.set()
        while not (noise._frames and noise._frames[max(noise._frames)].cancelled()) and time.monotonic() < until:
            time.sleep(0.01)  # until the context ends, however long that takes
        return torch.zeros(shape)

    monkeypatch.setattr("common.noise_ahead.frame_noise", slowly)
    before = threading.active_count()
    with pytest.raises(KeyError), NoiseAhead(3, "start", SHAPE, torch.device("cpu")) as noise:
        noise.expect(0, 100)
        assert begun.wait(60)
        raise KeyError
    assert drawn == [0] and threading.active_count() <= before
