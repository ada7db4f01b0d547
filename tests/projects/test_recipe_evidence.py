"""The evidence's program goes on where it was stopped: rows that are measured are not measured again."""

import argparse
import csv

import numpy as np
import pytest

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
    for row in ("truth", "bicubic", "full"):
        np.save(tmp_path / "rows" / f"{row}.npy", np.zeros((4, 8, 8, 3), np.uint8))
    asked = []

    def of_row(folder, row):
        if row == "full" and len(asked) < 2:
            raise KeyboardInterrupt
        asked.append(row)
        return [(row, "psnr", "0", 30.0), (row, "swd", "", len(asked))]

    monkeypatch.setattr(recipe_evidence, "of_row", of_row)
    monkeypatch.setattr(recipe_evidence, "ProcessPoolExecutor", InTurn)
    args = argparse.Namespace(output=tmp_path, rows=tmp_path / "it.csv", workers=1)
    with pytest.raises(KeyboardInterrupt):
        recipe_evidence.measure({}, args)
    with args.rows.open("a") as file:
        file.write("full,psnr,0,29.0\nfull,ssim")  # cut off
    asked.append("stopped here")
    recipe_evidence.measure({}, args)
    assert asked == ["bicubic", "stopped here", "full"]
    with args.rows.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["bicubic", "bicubic", "full", "full"]
    assert lines[2]["value"] == "30.0000"
