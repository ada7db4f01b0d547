"""How long is each frame of an animation shown? The delays are read from the file's blocks; no pixel is decoded."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

from data.media.clock import time_base_of

LONGEST_IGNORED_MS = {"GIF": 10}  # old GIFs have such delays by mistake; in other formats only a delay of 0 is ignored
USUAL_DELAY_MS = 100  # replaces an ignored delay, as in browsers


def shown_for(milliseconds: Fraction | float | None, picture_format: str | None) -> Fraction:
    """Seconds for which browsers show a frame with this delay.

    Args:
        milliseconds: the delay in the file; None counts as 0.
        picture_format: Pillow's name of the format.
    """
    exact = Fraction(milliseconds or 0).limit_denominator(1000)
    ignored = exact <= LONGEST_IGNORED_MS.get(picture_format or "", 0)
    return (Fraction(USUAL_DELAY_MS) if ignored else exact) / 1000


def delays_of(path: Path, picture_format: str | None) -> list[Fraction]:
    """The duration of every frame in seconds, from the blocks of a GIF, WebP, PNG or AVIF; [] for other formats.

    This is more exact than Pillow, which rounds the delays of an AVIF to milliseconds. The list can have fewer or more
    entries than the file has frames if the file is damaged.

    Args:
        picture_format: Pillow's name of the format.
    """
    walk = {"GIF": _gif, "WEBP": _webp, "PNG": _png, "AVIF": _avif}.get(picture_format or "")
    if walk is None:
        return []
    with path.open("rb") as file:
        return [shown_for(milliseconds, picture_format) for milliseconds in walk(file)]


def _gif(file: BinaryIO) -> Iterator[Fraction]:
    _skip_palette(file, file.read(13)[10:11])
    delay = Fraction(0)
    while introducer := file.read(1):
        if introducer == b"!":
            label, block = file.read(1), file.read(file.read(1)[0])
            if label == b"\xf9" and len(block) >= 4:
                delay = Fraction(10 * struct.unpack("<H", block[1:3])[0])
            if block:
                _skip_blocks(file)
        elif introducer == b",":
            _skip_palette(file, file.read(9)[8:9])
            file.read(1)
            _skip_blocks(file)
            yield delay
        elif introducer == b";":
            return


def _skip_palette(file: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << ((flags[0] & 7) + 1), 1)


def _skip_blocks(file: BinaryIO) -> None:
    while (size := file.read(1)) and size[0]:
        file.seek(size[0], 1)


def _webp(file: BinaryIO) -> Iterator[Fraction]:
    file.seek(12)
    while len(header := file.read(8)) == 8:
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"ANMF":
            yield Fraction(int.from_bytes(file.read(16)[12:15], "little"))
            file.seek(-16, 1)
        file.seek(size + size % 2, 1)


def _png(file: BinaryIO) -> Iterator[Fraction]:
    file.seek(8)
    while len(header := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", header)
        if name == b"fcTL" and size == 26:
            numerator, denominator = struct.unpack(">HH", file.read(26)[20:24])
            yield Fraction(1000 * numerator, denominator or 100)
            size = 0
        file.seek(size + 4, 1)


def _avif(file: BinaryIO) -> Iterator[Fraction]:
    try:
        with av.open(file, format="mov") as container:
            stream = max(container.streams.video, key=lambda one: one.frames)  # the first stream is the still picture
            assert isinstance(container, av.container.InputContainer)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            end = times[0] + (stream.duration or 0)
            for start, following in zip(times, [*times[1:], end], strict=True):
                yield 1000 * (following - start) * time_base_of(stream)
    except (av.FFmpegError, IndexError, TypeError, ValueError, ZeroDivisionError):  # no track, or no times
        return
