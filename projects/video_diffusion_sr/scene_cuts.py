"""The scene cuts of a file: detected while it is read, read from a list, or ignored; and written as a list.

A list is a table with a header: the number of each shot's first frame, counted from 0, and its time in seconds.
"""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import tee
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from data.media import Frame
from data.media.errors import MediaError, reason
from data.scene_cuts import find_cuts, thumbnail

AUTO, OFF = "auto", "off"
SUFFIX = ".cuts.csv"
HEADER = ("frame", "seconds")


@dataclass(frozen=True)
class SceneCuts:
    """The settings of scene cuts.

    source: `AUTO` (detect them), `OFF`, or the path of a list or of a folder with one list NAME.cuts.csv per file.
    write_to: file, or folder (existing, or without a suffix in its name), for lists of the cuts; None: write none.
    """

    source: str = AUTO
    write_to: Path | None = None

    def mark(self, frames: Iterator[Frame], path: Path, found: list[tuple[int, Fraction]]) -> Iterator[Frame]:
        """Yield the frames of a file from the first on, with `begins_shot` set on those that begin a shot.

        Args:
            found: a list to which (number, time in seconds) of each such frame is appended.
        Raises:
            MediaError: the list of cuts cannot be used; the message says why.
        """
        if self.source == OFF:
            return frames
        marked = _found(frames) if self.source == AUTO else _listed(frames, set(read_list(self.list_of(path))))
        return _noted(marked, found)

    def list_of(self, path: Path) -> Path:
        """The path of the list of a file."""
        return list_path(Path(self.source), path)

    def write(self, path: Path, found: Collection[tuple[int, Fraction]]) -> None:
        """Write the list of a file's cuts, if `write_to` is set."""
        if self.write_to is None:
            return
        with (
            atomic_write(list_path(self.write_to, path)) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(HEADER)
            rows.writerows((number, f"{float(time):.6f}") for number, time in found)


def list_path(place: Path, path: Path) -> Path:
    """The path of a media file's list: `place` or, if that is a folder, a file in it."""
    return place / f"{path.name}{SUFFIX}" if place.is_dir() or not place.suffix else place


def read_list(path: Path) -> list[int]:
    """Read the numbers of the frames that begin shots; MediaError for an invalid list."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"--scene_cuts {path}: cannot be read ({reason(error)}); give a list, auto or off") from error
    numbers = []
    for number, line in enumerate(lines, 1):
        first = line.split(",")[0].strip()
        if not first or first.startswith("#") or (number == 1 and first == HEADER[0]):
            continue
        if not first.isdecimal():
            raise MediaError(f"--scene_cuts {path}: line {number} begins with {first!r}, not with a frame's number")
        numbers.append(int(first))
    return numbers


def _found(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Mark detected cuts. A few frames are held back, because detection needs the frames after them."""
    frames, looked_at = tee(frames)
    for frame, (_, begins) in zip(frames, find_cuts(map(_small, looked_at)), strict=True):
        yield replace(frame, begins_shot=True) if begins else frame


def _listed(frames: Iterator[Frame], numbers: Collection[int]) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        yield replace(frame, begins_shot=True) if number and number in numbers else frame


def _noted(frames: Iterator[Frame], found: list[tuple[int, Fraction]]) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        if frame.begins_shot:
            found.append((number, frame.time))
        yield frame


def _small(frame: Frame) -> np.ndarray:
    """The thumbnail of a frame of any format, in 8-bit codes."""
    planes = frame.planes[0][0] if frame.layout is None else [plane[0] for plane in frame.planes]
    arrays = [plane.contiguous().numpy() for plane in planes]
    if arrays[0].dtype == np.uint8:
        return thumbnail(arrays)
    if arrays[0].dtype == np.int16:  # the bits of unsigned 16-bit words
        bits = 16 if frame.layout is None else frame.layout.depth + frame.layout.shift
        return thumbnail([array.view(np.uint16) for array in arrays]) * 2.0 ** (8 - bits)
    return thumbnail([array.astype(np.float32) for array in arrays]) * 255
