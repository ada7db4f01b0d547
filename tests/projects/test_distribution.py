"""Measures of a set of results: zero or blind where nothing differs, and of the right sign where it does."""

import json

import cv2
import numpy as np
import pytest

from projects import evaluate
from projects.evaluation import distribution
from projects.evaluation.distribution import (
    area_under_curve,
    distribution_measures,
    sliced_wasserstein,
    spectrum_difference,
    two_sample,
)


def pictures(count: int, seed: int) -> list[np.ndarray]:
    """Textures of all scales."""
    dice = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        layers = [cv2.resize(dice.normal(size=(n, n, 3)), (96, 80), interpolation=cv2.INTER_CUBIC) for n in (6, 24, 80)]
        made.append(np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8))
    return made


def blurred(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 1.5)


def speckled(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(picture.sum() % 1000).normal(0, 12, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_equal_sets_do_not_differ():
    truths = pictures(4, 0)
    assert sliced_wasserstein(truths, truths) == 0
    assert spectrum_difference(truths, truths) == (0, 0)


def test_blur_and_speckle_have_opposite_signs_and_both_are_far():
    truths = pictures(6, 1)
    soft, rough = ([change(x) for x in truths] for change in (blurred, speckled))
    assert spectrum_difference(soft, truths)[1] < -3 < 0.5 < spectrum_difference(rough, truths)[1]
    assert min(sliced_wasserstein(soft, truths), sliced_wasserstein(rough, truths)) > 20


def test_a_milder_change_is_nearer():
    truths = pictures(6, 2)
    soft = [blurred(x) for x in truths]
    half = [cv2.addWeighted(a, 0.5, b, 0.5, 0) for a, b in zip(truths, soft, strict=True)]
    assert 0 < sliced_wasserstein(half, truths) < sliced_wasserstein(soft, truths)
    assert 0 < spectrum_difference(half, truths)[0] < spectrum_difference(soft, truths)[0]


def test_a_fresh_network_tells_blur_from_truth_and_cannot_tell_truths_apart(monkeypatch):
    monkeypatch.setattr(distribution, "UPDATES", 40)
    monkeypatch.setattr(distribution, "BATCH", 16)
    monkeypatch.setattr(distribution, "CHANNELS", (8, 16))
    truths = pictures(12, 3)
    assert two_sample([blurred(x) for x in truths], truths, "cpu", 0) > 0.9
    assert two_sample(truths, truths, "cpu", 0) == 0.5  # the same patches have the same scores


def test_area_under_the_curve():
    assert area_under_curve(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    assert area_under_curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert area_under_curve(np.array([3.0]), np.array([0.0])) == 0


def test_too_little_is_a_sentence():
    with pytest.raises(ValueError, match="need 4 results"):
        distribution_measures(pictures(2, 0), pictures(2, 0))
    with pytest.raises(ValueError, match="64 pixels"):
        distribution_measures([x[:40] for x in pictures(4, 0)], pictures(4, 0))


def test_evaluate_measures_the_set_where_it_is_asked_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distribution, "UPDATES", 2)
    monkeypatch.setattr(distribution, "CHANNELS", (8,))
    for folder, change in (("truth", lambda x: x), ("soft", blurred)):
        (tmp_path / folder).mkdir()
        for number, picture in enumerate(pictures(4, 5)):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), change(picture))
    flags = ["--results", tmp_path / "soft", "--ground_truth", tmp_path / "truth", "--workers", "1", "--distribution"]
    assert evaluate.main([*map(str, flags), "--json", str(tmp_path / "out.json")]) == 0
    (values,) = json.loads((tmp_path / "out.json").read_text())["distribution"].values()
    assert tuple(values) == distribution.NAMES and values["finest"] < -3
    assert "two_sample" in capsys.readouterr().out
