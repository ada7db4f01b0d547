"""The evidence's program goes on where it was stopped: rows that are measured are not measured again."""

import argparse
import csv

import numpy as np
import pytest
from PIL import Image

from projects import recipe_evidence


class InTurn:
    """`ProcessPoolExecutor` without processes."""

    def __init__(self, *_, **__) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    map = staticmethod(map)


def test_a_stopped_measuring_goes_on(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    (tmp_path / "held_out").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 19, 3), np.uint8)).save(tmp_path / f"held_out/{name}.png")
    recipe = {"held_out": {"side": 8}}
    for row in ("truth", "bicubic", "full"):
        np.save(tmp_path / "rows" / f"{row}.npy", np.zeros((4, 8, 8, 3), np.uint8))
    asked = []

    def of_row(folder, pictures, row):
        assert pictures == ["a.png"] * 2 + ["b.png"] * 2
        if row == "full" and len(asked) < 2:
            raise KeyboardInterrupt
        asked.append(row)
        return [(row, "psnr", "0", 30.0), (row, "swd", "", len(asked))]

    monkeypatch.setattr(recipe_evidence, "of_row", of_row)
    monkeypatch.setattr(recipe_evidence, "ProcessPoolExecutor", InTurn)
    args = argparse.Namespace(output=tmp_path, rows=tmp_path / "it.csv", workers=1, held_out=tmp_path / "held_out")
    with pytest.raises(KeyboardInterrupt):
        recipe_evidence.measure(recipe, args)
    with args.rows.open("a") as file:
        file.write("full,psnr,0,29.0\nfull,ssim")  # cut off
    asked.append("stopped here")
    recipe_evidence.measure(recipe, args)
    assert asked == ["bicubic", "stopped here", "full"]
    with args.rows.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["bicubic", "bicubic", "full", "full"]
    assert lines[2]["value"] == "30.0000"


def test_the_score_of_a_picture_is_the_mean_over_its_squares(tmp_path, monkeypatch):
    truth = np.random.default_rng(0).integers(40, 200, (4, 64, 64, 3)).astype(np.uint8)
    off = np.array([2, 4, 4, 4], np.uint8)[:, None, None, None]
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "off.npy", truth + off)
    monkeypatch.setattr(recipe_evidence, "distribution_measures", lambda *_: {"swd": 1.0})
    lines = recipe_evidence.of_row(tmp_path, ["a", "a", "b", "b"], "off")
    psnr = {picture: value for _, measure, picture, value in lines if measure == "psnr"}
    decibels = [20 * np.log10(255 / x) for x in (2, 4)]
    assert psnr == pytest.approx({"a": sum(decibels) / 2, "b": decibels[1]}, abs=1e-3)
    assert lines[-1] == ("off", "swd", "", 1.0)


def test_the_picture_shows_the_same_squares_of_every_row(tmp_path):
    (tmp_path / "rows").mkdir()
    for row, level in (("truth", 250), ("bicubic", 120)):
        shades = np.linspace(0, level, 30).astype(np.uint8)[:, None, None, None]
        np.save(tmp_path / "rows" / f"{row}.npy", np.broadcast_to(shades, (30, 8, 8, 3)))
    args = argparse.Namespace(output=tmp_path, picture=tmp_path / "rows.png")
    recipe_evidence.draw({}, args)
    drawn = np.asarray(Image.open(args.picture))[:, recipe_evidence.LABEL :]
    assert drawn.shape == (16, 8 * recipe_evidence.DRAWN, 3)
    first, last = drawn[[4, 12], 4, 0], drawn[[4, 12], -4, 0]
    assert first.tolist() == [0, 0] and last.tolist() == [250, 120], "truth on top, from the first square to the last"


@pytest.mark.parametrize(
    ("line", "missing", "unknown"),
    [
        ("train", "--held_out", "--rows x"),
        ("measure", "--held_out", "--picture x"),
        ("draw", None, "--held_out x"),
    ],
)
def test_a_command_has_the_flags_that_it_uses(line, missing, unknown, capsys):
    needed = ["--held_out", "x", "seed=3", "--output", "out"] if missing else ["--output", "out"]
    args = recipe_evidence.parse([line, *needed])
    assert args.command == line and args.output.name == "out" and getattr(args, "overrides", ["seed=3"]) == ["seed=3"]
    for words, error in (([line, *needed, *unknown.split()], "unrecognized arguments: --"), ([line], missing)):
        if error:
            with pytest.raises(SystemExit):
                recipe_evidence.parse(words)
            assert error in capsys.readouterr().err
