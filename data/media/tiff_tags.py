"""Reads the integers in the directories of a TIFF or BigTIFF, without decoding pixels."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_DIRECTORIES, MOST_ENTRIES, MOST_VALUES = 32, 4096, 64
WIDTHS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # struct formats of TIFF's integer types

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SUB_DIRECTORIES, SAMPLE_FORMAT = 258, 259, 262, 277, 330, 339
DNG_VERSION = 50706
COLOUR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892  # photometric interpretations of sensor data
FORMAT_NAMES = {1: "unsigned", 2: "signed", 3: "float"}


def directories(path: Path) -> Iterator[dict[int, tuple[int, ...]]]:
    """Yield the integer tags of every directory: tag number to values. Damaged data ends the iteration.

    Both the chain of directories and the sub-directories are read, at most `MOST_DIRECTORIES`. A file that is no TIFF
    has none.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] not in STARTS:
            return
        order, big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
        try:
            todo = [struct.unpack_from(f"{order}Q", head, 8)[0] if big else struct.unpack_from(f"{order}I", head, 4)[0]]
            seen: set[int] = set()
            while todo and len(seen) < MOST_DIRECTORIES:
                place = todo.pop(0)
                if place in seen or not place:
                    continue
                seen.add(place)
                tags, following = _directory(file, place, order, big)
                todo += [*tags.get(SUB_DIRECTORIES, ()), following]
                yield tags
        except struct.error:
            return


def is_camera_raw(path: Path) -> bool:
    """Whether a TIFF is a camera's RAW file: it holds sensor data or is a DNG, and its first picture is a preview."""
    return any(
        DNG_VERSION in tags or tags.get(PHOTOMETRIC, (0,))[0] in (COLOUR_FILTER_ARRAY, LINEAR_RAW)
        for tags in directories(path)
    )


def described(path: Path) -> str | None:
    """The first picture of a TIFF in words, such as "3 samples of 32 bits, float, compression 1"; None if unknown."""
    tags = next(directories(path), None)
    if tags is None or BITS not in tags:
        return None
    samples, bits = tags.get(SAMPLES, (1,))[0], tags[BITS][0]
    kind = FORMAT_NAMES.get(tags.get(SAMPLE_FORMAT, (1,))[0], "of an unknown kind")
    packed = tags.get(COMPRESSION, (1,))[0]
    return f"{samples} sample{'s' * (samples != 1)} of {bits} bits, {kind}, compression {packed}"


def _directory(file: BinaryIO, place: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """(the integer tags of a directory, the offset of the next directory; 0: there is none)."""
    count_form, entry_form, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    file.seek(place)
    (count,) = struct.unpack(order + count_form, file.read(struct.calcsize(order + count_form)))
    size = struct.calcsize(order + entry_form)
    block = file.read(min(count, MOST_ENTRIES) * size)
    end = file.read(inline)
    tags = {}
    for number in range(len(block) // size):
        tag, kind, values, content = struct.unpack_from(order + entry_form, block, number * size)
        if kind not in WIDTHS or not values:
            continue
        form = f"{order}{min(values, MOST_VALUES)}{WIDTHS[kind]}"
        if struct.calcsize(form) > inline:
            file.seek(struct.unpack(order + ("Q" if big else "I"), content)[0])
            content = file.read(struct.calcsize(form))
        if len(content) >= struct.calcsize(form):
            tags[tag] = struct.unpack_from(form, content)
    return tags, struct.unpack(order + ("Q" if big else "I"), end)[0] if len(end) == inline else 0
