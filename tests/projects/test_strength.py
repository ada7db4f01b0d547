"""`--strength` from the resized input to the restored clip, band by band."""

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from projects import strength_study
from projects.degrade import write_clip
from projects.video_diffusion_sr.color_fix import low_frequencies
from projects.video_diffusion_sr.finishing import finish
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.strength import EXPONENTS, mixed

STRENGTHS = [0.0, 0.1, 0.3, 0.5, 0.8, 1.0]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 70, 90, generator=noise) * 2 - 1 for _ in range(2))


def test_both_ends_are_exact(pair):
    given, result = pair
    assert torch.equal(mixed(given, result, 0.0), given)
    torch.testing.assert_close(mixed(given, result, 1.0), result, atol=1e-6, rtol=0)
    clip = result.transpose(0, 1)  # [3, T, H, W], as it is decoded
    assert torch.equal(finish(clip, given, ResultOptions("none", 1.0)), result)
    assert torch.equal(finish(clip, given, ResultOptions("none", 0.0)), given)


def test_what_the_restorer_left_alone_stays(pair):
    given, _ = pair
    assert torch.equal(mixed(given, given.clone(), 0.4), given)


def test_equal_exponents_are_a_straight_line(pair):
    given, result = pair
    for s in STRENGTHS:
        torch.testing.assert_close(mixed(given, result, s, [1.0] * 6), torch.lerp(given, result, s), atol=1e-6, rtol=0)


def test_every_band_has_its_share(pair):
    """A change of one colour is the coarsest band alone; of a change without low frequencies nothing is in it."""
    given, _ = pair
    shift = torch.full_like(given, 0.25)
    for s in STRENGTHS:
        expected = given + s ** EXPONENTS[-1] * shift
        torch.testing.assert_close(mixed(given, given + shift, s), expected, atol=1e-5, rtol=0)
    stripes = torch.zeros_like(given)
    stripes[..., ::2], stripes[..., 1::2] = 0.25, -0.25  # the finest there are: one blur removes them
    assert low_frequencies(stripes)[..., 40:50].abs().max() < 1e-6  # where no border reaches
    inner = (mixed(given, given + stripes, 0.5) - given)[..., 40:50]
    torch.testing.assert_close(inner, 0.5 ** EXPONENTS[0] * stripes[..., 40:50], atol=1e-5, rtol=0)


def test_more_strength_is_more_of_the_change_and_finer_detail_falls_first(pair):
    given, result = pair
    change = result - given
    shares = []
    for s in STRENGTHS:
        part = mixed(given, result, s) - given
        fine, coarse = change - low_frequencies(change), low_frequencies(change)
        low = low_frequencies(part)
        shares.append([float((a * b).sum() / (b * b).sum()) for a, b in ((part - low, fine), (low, coarse))])
    assert all(b > a for column in zip(*shares, strict=True) for a, b in pairwise(column))
    assert all(fine < coarse for fine, coarse in shares[1:-1])


@pytest.mark.slow
def test_the_study_measures_every_way_and_all_of_them_between_the_same_ends(tmp_path, capsys):
    rng = np.random.default_rng(0)
    clip = np.kron(rng.integers(0, 255, (2, 8, 10, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    write_clip(clip, tmp_path, "clip", Fraction(25), "png")
    flags = ["--clips", "1", "--frames", "2", "--height", "64", "--width", "80", "--damage", "light"]
    strength_study.main(["--input", str(tmp_path), "--rows", str(tmp_path / "rows.json"), *flags])
    rows = json.loads((tmp_path / "rows.json").read_text())
    for end in (0.0, 1.0):
        own = [{m: row[m] for m in strength_study.MEASURES} for row in rows if row["strength"] == end]
        assert len(own) == len(strength_study.CANDIDATES) and all(values == own[0] for values in own)
    table = capsys.readouterr().out
    assert all(f"| light | {name} | 0.5 |" in table for name in strength_study.CANDIDATES)
