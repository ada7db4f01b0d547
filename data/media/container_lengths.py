"""How long should a file be, by the lengths that its container states? They are read from the bytes, not by FFmpeg."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def promised_size(path: Path) -> int | None:
    """The file size in bytes that the container's lengths add up to; None if the container does not state it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return _riff_end(file, size)
        if head[:4] == b"\x1aE\xdf\xa3":
            return _matroska_end(file)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            return _boxes(file, size)[1]
        if head.startswith(b"0&\xb2u\x8ef\xcf\x11"):
            return asf_lengths(path)[0]
    return None


def top_level_boxes(path: Path) -> list[bytes]:
    """The types of the top-level boxes of an MP4 or MOV (ISO/IEC 14496-12), in order."""
    with path.open("rb") as file:
        return _boxes(file, path.stat().st_size)[0]


def asf_lengths(path: Path) -> tuple[int | None, Fraction | None]:
    """(size in bytes, duration in seconds) by the header of an ASF; (None, None) if it is missing or of a broadcast."""
    with path.open("rb") as file:
        header = file.read(1 << 16)
    start = header.find(ASF_FILE_PROPERTIES)
    if start < 0 or len(header) < start + 92 or header[start + 88] & 1:
        return None, None
    size, _, _, played, _, preroll = struct.unpack_from("<6Q", header, start + 40)
    return size, Fraction(played, 10**7) - Fraction(preroll, 1000)


def _riff_end(file: BinaryIO, size: int) -> int | None:
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(12)
        if len(header) < 12 or header[:4] != b"RIFF":
            break
        length = struct.unpack("<I", header[4:8])[0]
        if length in (0, 0xFFFFFFFF):  # the writer never filled in the length
            return None
        position += 8 + length + length % 2
    return position


def _matroska_end(file: BinaryIO) -> int | None:
    file.seek(4)
    header = _ebml_size(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(4) != b"\x18S\x80g":  # the segment, which holds all the rest
        return None
    length = _ebml_size(file)
    return None if length is None else file.tell() + length


def _ebml_size(file: BinaryIO) -> int | None:
    """Read an EBML length; None if it is damaged, or 'unknown' as in live recordings."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    bits = 7 * (more + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
    return None if len(rest) < more or value == (1 << bits) - 1 else value


def _boxes(file: BinaryIO, size: int) -> tuple[list[bytes], int | None]:
    """(types of the top-level boxes, end of the last one; None if a box does not state its length)."""
    position, names = 0, list[bytes]()
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return names, None
        length, name = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        names.append(name)
        if length < 8:  # 0: the box goes on to the end of the file
            return names, None
        position += length
    return names, position
