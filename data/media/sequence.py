"""Which numbered pictures are the frames of one clip? Works without torch, for probing and for searching folders.

The path of such a clip is its folder, or a printf pattern such as `walk/frame_%05d.png`. Only this module distinguishes
the two.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from os import PathLike
from pathlib import Path

from common.logger import printable
from data.media.errors import MediaError, reason, shown
from data.media.find import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SEQUENCE_RATE = Fraction(24)  # assumed frames per second, since pictures have no rate
PRINTF = re.compile(r"(?P<before>[^%]*)%(?:0(?P<width>\d{1,2}))?d(?P<after>[^%]*)")
MOST_RANGES = 5  # how many ranges of missing numbers a message lists


@dataclass(frozen=True)
class NumberedPictures:
    """Pictures in the order of the numbers in their names; there is at least one."""

    files: tuple[Path, ...]  # the pictures, in order
    numbers: tuple[int, ...]  # their numbers, strictly increasing

    @property
    def missing(self) -> str | None:
        """The numbers that are missing, as a sentence such as "3 numbers are missing: 5, 8-9"; None if none are."""
        gaps = [(a + 1, b - 1) for a, b in pairwise(self.numbers) if b > a + 1]
        if not gaps:
            return None
        count = sum(last - first + 1 for first, last in gaps)
        said = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in gaps[:MOST_RANGES])
        more = ", ..." if gaps[MOST_RANGES:] else ""
        return f"{count} {'number is' if count == 1 else 'numbers are'} missing: {said}{more}"


def is_pattern(path: str | PathLike[str]) -> bool:
    """Whether a path is a printf pattern of pictures, such as `frame_%05d.png`, and not an existing file or folder."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and PRINTF.fullmatch(path.name) is not None and not path.exists()


def is_sequence(path: str | PathLike[str]) -> bool:
    """Whether a path is a clip of numbered pictures: a pattern, or a folder."""
    return is_pattern(path) or Path(path).is_dir()


def folder_of(path: Path) -> Path:
    """The folder that holds the pictures of a pattern; other paths are returned unchanged."""
    return path.parent if is_pattern(path) else path


def clip_name(path: Path) -> str:
    """The name of a clip of numbered pictures: that of its folder, since `frame_%05d` is not a good name."""
    folder = folder_of(path)
    return folder.name or folder.resolve().name or "clip"


def numbered(path: str | PathLike[str]) -> NumberedPictures:
    """The pictures of a pattern, or of a folder in which the names of all pictures differ only in one number.

    Raises:
        MediaError: there are no such pictures, names differ in more than a number, two have one number, or a folder
            holds fewer than two pictures, or a video.
    """
    path = Path(path)
    try:
        entries = sorted(e for e in folder_of(path).iterdir() if not e.name.startswith(".") and e.is_file())
    except OSError as error:
        raise MediaError(f"{shown(path)}: its folder cannot be read ({reason(error)})") from error
    found = _of_pattern(path, entries) if is_pattern(path) else _of_folder(path, entries)
    for (number, file), (other, same) in pairwise(found):
        if number == other:
            raise MediaError(
                f"{shown(path)}: {shown(file)} and {shown(same)} have the same number; give one of them as a pattern, "
                "such as %05d, or move it away"
            )
    return NumberedPictures(tuple(file for _, file in found), tuple(number for number, _ in found))


def size_in_bytes(path: Path) -> int:
    """The size of a file, or of all pictures of a clip, in bytes."""
    return sum(file.stat().st_size for file in (numbered(path).files if is_sequence(path) else [path]))


def _of_pattern(path: Path, entries: list[Path]) -> list[tuple[int, Path]]:
    pattern = PRINTF.fullmatch(path.name)
    assert pattern is not None, "see `is_pattern`"
    before, after, width = pattern["before"], pattern["after"], int(pattern["width"] or 1)
    found = []
    for entry in entries:
        digits = entry.name[len(before) : len(entry.name) - len(after)]
        if entry.name == before + digits + after and digits.isdecimal() and digits.isascii():
            if digits == f"{int(digits):0{width}d}":
                found.append((int(digits), entry))
    if not found:
        raise MediaError(f"{printable(str(path))}: there is no such file, and no picture whose name fits the pattern")
    return sorted(found)


def _of_folder(path: Path, entries: list[Path]) -> list[tuple[int, Path]]:
    pictures = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    clips = [entry for entry in entries if entry.suffix.lower() in VIDEO_SUFFIXES]
    if clips:
        raise MediaError(f"{shown(path)}: not a folder of frames only: it holds {shown(clips[0])}")
    if len(pictures) < 2:
        held = f"one picture alone, {shown(pictures[0])}" if pictures else "no pictures"
        raise MediaError(f"{shown(path)}: not a folder of numbered pictures: it holds {held}")
    names = [re.split("([0-9]+)", picture.stem) for picture in pictures]
    for picture, name in zip(pictures, names, strict=True):
        if name[::2] != names[0][::2] or picture.suffix.lower() != pictures[0].suffix.lower():
            raise MediaError(
                f"{shown(path)}: its pictures have several names, {shown(pictures[0])} and {shown(picture)}; give "
                "those of one clip as a pattern, such as frame_%05d.png"
            )
    columns = range(1, len(names[0]), 2)
    if not columns:
        raise MediaError(f"{shown(path)}: not a folder of numbered pictures: {shown(pictures[0])} has no number")
    counting = [column for column in columns if len({int(name[column]) for name in names}) > 1]
    if len(counting) > 1:
        raise MediaError(
            f"{shown(path)}: its pictures have more than one number that changes, as {shown(pictures[-1])}; give those "
            "of one clip as a pattern, such as shot1_%05d.png"
        )
    column = (counting or columns)[-1]
    return sorted((int(name[column]), picture) for name, picture in zip(names, pictures, strict=True))
