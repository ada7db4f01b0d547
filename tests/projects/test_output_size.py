"""Sizes as users ask for them, and what is said about a result that is smaller than its input."""

import numpy as np
import pytest
import torch
from PIL import Image

from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.output_size import OutputSize
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.seeded_weights import SMALL, seeded_weights


@pytest.mark.parametrize(
    ("asked", "given", "result"),
    [
        (OutputSize(scale=2), (270, 481), (540, 962)),
        (OutputSize(scale=0.5), (31, 33), (16, 16)),
        (OutputSize(scale=1.5), (27, 40), (40, 60)),
        (OutputSize(short_side=1080), (480, 854), (1080, 1922)),
        (OutputSize(short_side=1080), (1920, 1080), (1920, 1080)),
        (OutputSize(exact=(1080, 1920)), (480, 640), (1080, 1920)),
        (OutputSize(area=(720, 1280)), (480, 640), (831, 1109)),
    ],
)
def test_sizes_follow_from_what_was_asked(asked, given, result):
    assert asked.of(*given) == result
    geometry = Geometry((64, 64), 16, size=asked)
    assert geometry.output_size(*given) == result
    if max(result) < 100:
        frame = geometry.to_output(torch.zeros(3, *given, dtype=torch.uint8), "cpu")
        assert frame.shape == (3, *result)


def test_an_area_is_resized_as_before():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8))
    plain, named = Geometry((48, 64), 16), Geometry((1, 1), 16, size=OutputSize(area=(48, 64)))
    assert torch.equal(plain.to_output(pixels, "cpu"), named.to_output(pixels, "cpu"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "one size is needed, got none"),
        ({"scale": 2, "short_side": 64}, "scale and short_side"),
        ({"scale": 0}, "positive"),
        ({"scale": float("nan")}, "positive"),
        ({"scale": float("inf")}, "positive"),
        ({"short_side": 8}, "at least 16 pixels"),
        ({"exact": (1080, 4)}, "4x1080 is too small"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        OutputSize(**wrong)


@pytest.mark.parametrize(
    "flags",
    [
        ["--scale", "0"],
        ["--scale", "2", "--short_side", "64"],
        ["--size", "1920"],
        ["--size", "64x48", "--fit", "crop"],
    ],
)
def test_flags_that_make_no_sense_end_the_run(tmp_path, flags, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    try:
        code = cli.main(SEEDVR2_TINY, ["--video_path", str(tmp_path), "--output_dir", str(tmp_path / "o"), *flags])
    except SystemExit as stopped:  # argparse's own
        code = stopped.code
    assert code == 2 and capsys.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flags", "size", "said"),
    [
        (["--scale", "2"], (80, 48), None),
        (["--short_side", "16"], (27, 16), "the result, 27x16, is smaller than the input, 40x24"),
        (["--size", "40x40"], (40, 40), "40x40 has another aspect ratio than the input, 40x24"),
        (["--size", "80x48"], (80, 48), None),
    ],
)
def test_the_program_obeys_and_says_what_a_user_may_not_expect(tmp_path, capsys, flags, size, said):
    Image.new("RGB", (40, 24), (9, 90, 200)).save(tmp_path / "a.png")
    where = ["--video_path", str(tmp_path / "a.png"), "--output_dir", str(tmp_path / "out")]
    assert (
        cli.main(
            SEEDVR2_TINY,
            [*where, *flags, "--device", "cpu", "--set", *SMALL, "--ckpt_dir", str(seeded_weights(tmp_path))],
        )
        == 0
    )
    assert Image.open(tmp_path / "out" / "a.png").size == size
    message = capsys.readouterr().err
    assert said in message if said else "smaller" not in message and "stretched" not in message
