"""Noise per latent frame: the same however the clip is cut, different for everything that should differ."""

import itertools

import pytest
import torch

from common.seed import KINDS, frame_noise, frame_seed


def test_any_cut_of_a_clip_gives_the_noise_of_the_whole():
    whole = frame_noise(666, "start", 0, 7, 4, 6)
    assert whole.shape == (7, 4, 6, 16) and whole.dtype == torch.float32 and whole.device.type == "cpu"
    for cuts in ((0, 7), (0, 1, 7), (0, 3, 4, 7)):
        parts = [frame_noise(666, "start", a, b - a, 4, 6) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(parts), whole)
    assert frame_noise(666, "start", 3, 0, 4, 6).shape == (0, 4, 6, 16)


def test_seeds_kinds_and_frames_share_nothing():
    draws = [frame_noise(seed, kind, i, 1, 5, 5) for seed in (0, 1, -1, 2**40) for kind in KINDS for i in range(3)]
    for a, b in itertools.combinations(draws, 2):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.25


def test_it_is_standard_normal():
    noise = frame_noise(1, "posterior", 0, 8, 40, 40)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and abs(noise.pow(4).mean() - 3) < 0.1


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = frame_noise(1, "start", 0, 2, 3, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(frame_noise(1, "start", 0, 2, 3, 3), first)


def test_seeds_stay_what_they_are_from_release_to_release():
    assert frame_seed(666, "start", 0) == 2510670887583494522


def test_unknown_kinds_and_negative_frames_are_refused():
    with pytest.raises(ValueError, match="posterior, start, condition"):
        frame_noise(1, "startt", 0, 1, 1, 1)
    with pytest.raises(ValueError, match="counted from 0"):
        frame_noise(1, "start", -1, 1, 1, 1)
