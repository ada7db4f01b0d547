"""Is a clip shorter than its container states? In most containers a truncated file decodes without an error.

There are two kinds of evidence. Bytes: the container's lengths add up to more than the file's size, so the file was
cut. Header: it states more frames, or a longer duration, than was decoded; recorders that crash leave such headers too.
"""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from data.media.container_lengths import asf_lengths, promised_size
from data.media.video_file import open_container

PADDING_BYTES = 16  # tolerance: some writers miscount the padding of the last chunk
TIMED = ("matroska", "flv", "mxf")  # formats whose duration is read from the header and not estimated by FFmpeg
AUDIO_TAIL_S = Fraction(1, 2)  # how much longer the file may be than its video without a message


@dataclass(frozen=True)
class Shortfall:
    """What is missing at the end of a clip."""

    cut: bool  # the container's lengths reach beyond the end of the file
    promised: str  # the container's length in words, such as "25 frames" or "9000 bytes"
    frames_missing: bool  # fewer frames were decoded than promised; False when only later bytes (an index) are missing


def shortfall(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    decoded: int,
    end: Fraction,
    step: Fraction,
) -> Shortfall | None:
    """What is missing after the last frame; None if the clip is as long as its container states.

    Args:
        path: the file.
        container: the clip, read to its end.
        stream: its video stream.
        decoded: how many frames were decoded.
        end: seconds from the start of the container to the end of the last frame.
        step: the duration of a frame in seconds.
    """
    promised_bytes, size = promised_size(path), path.stat().st_size
    cut = promised_bytes is not None and promised_bytes > size + PADDING_BYTES
    frames = promised_frames(container, stream)
    if frames is not None:
        if decoded + (0 if cut else 2) < frames:
            return Shortfall(cut, f"{frames} frames", True)
    else:
        seconds, exact = promised_end(container, stream)
        tolerance = 2 * step if cut or exact else max(AUDIO_TAIL_S, 5 * step)
        if seconds is not None and end + tolerance < seconds:
            if cut or exact or not _another_stream_reaches(path, stream, seconds - AUDIO_TAIL_S):
                return Shortfall(cut, f"about {round(seconds / step)} frames", True)
    return Shortfall(True, f"{promised_bytes} bytes", False) if cut else None


def promised_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """The header's frame count, for formats that count displayed frames; None for others and if there is none.

    MP4 is not one of them, because it also counts samples that an edit list hides.
    """
    if container.format.name == "avi":
        return stream.frames or None
    tag = stream.metadata.get("NUMBER_OF_FRAMES") or stream.metadata.get("NUMBER_OF_FRAMES-eng")
    return int(tag) if tag and tag.isascii() and tag.isdigit() else None


def promised_end(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[Fraction | None, bool]:
    """(duration in seconds by the header, None if unknown; whether it is that of this stream, not of the longest)."""
    tag = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng") or ""
    if container.format.name.startswith("matroska") and (seconds := _clock_time(tag)):
        return seconds, True
    if container.format.name == "asf":  # FFmpeg gives no duration for a truncated ASF
        return asf_lengths(Path(container.name))[1], False
    if container.format.name.startswith(TIMED) and container.duration:
        return Fraction(container.duration, av.time_base), False
    return None, False


def index_reaches_past_the_end(stream: av.VideoStream, path: Path) -> bool:
    """Whether the index lists packets beyond the end of the file, as after a download that ends between two packets."""
    size = path.stat().st_size
    entries = stream.index_entries
    return any(entry.pos + entry.size > size for entry in itertools.islice(entries, max(len(entries) - 1000, 0), None))


def _clock_time(text: str) -> Fraction | None:
    """Parse a duration such as '00:01:02.500000000' to seconds; None if it is none."""
    parts = text.strip().split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except (ValueError, ZeroDivisionError):
        return None
    return 3600 * hours + 60 * minutes + seconds


def _another_stream_reaches(path: Path, stream: av.VideoStream, seconds: Fraction) -> bool:
    """Whether sound or subtitles go on until this time, so that only the video ends early, as in a slide show."""
    with open_container(path) as container:
        others = [s for s in container.streams if s.index != stream.index and s.type in ("audio", "subtitle")]
        if not others:
            return False
        try:
            for packet in container.demux(others):
                if packet.pts is not None and packet.pts * packet.time_base >= seconds:
                    return True
        except av.FFmpegError:
            return False
    return False
