"""`projects/degrade.py` replaces no file but its own."""

import numpy as np
import pytest
from PIL import Image

from projects.degrade import main
from projects.program import run_program


def picture(path):
    """A picture of noise, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path.name))).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def bytes_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "flags",
    [
        ["--input", "photos", "--output", "photos"],
        ["--input", "photos/a.png", "--output", "photos"],
        ["--input", "photos", "--output", "link"],
        ["--input", "photos", "--output", "low/../photos"],
        ["--input", "photos", "--output", "low", "--ground_truth", "photos"],
        ["--input", "photos", "--output", "low", "--ground_truth", "low"],
        ["--input", "clips", "--output", "clips"],
        ["--input", "clips/walk/%05d.png", "--output", "clips"],
    ],
)
def test_no_input_is_replaced(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "photos" / "a.png")
    for number in range(3):
        picture(tmp_path / "clips" / "walk" / f"{number:05d}.png")
    (tmp_path / "low").mkdir()
    (tmp_path / "link").symlink_to("photos")
    before = bytes_below(tmp_path)
    assert run_program(main, flags) == 1
    assert bytes_below(tmp_path) == before and "name another" in capsys.readouterr().err


def test_only_frames_of_an_earlier_run_are_removed(tmp_path):
    for number in range(3):
        picture(tmp_path / "clips" / "walk" / f"{number:05d}.png")
    low = tmp_path / "low" / "walk"
    for name in ("00007.png", "mine.png", "7.png"):
        picture(low / name)
    assert run_program(main, ["--input", str(tmp_path / "clips"), "--output", str(tmp_path / "low")]) == 0
    assert sorted(path.name for path in low.iterdir()) == ["00000.png", "00001.png", "00002.png", "7.png", "mine.png"]
