"""A part of a clip: it starts at a time or a frame, and ends at a time or after a number of frames.

Works without torch, because flags and probing use it. `data.media.clip_range_reader` reads the frames.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Protocol, Self

from data.media.errors import MediaError, shown

CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)


class Long(Protocol):
    """What `ClipRange` must know of a clip: its kind and its length. `MediaInfo` and `Probe` fit."""

    @property
    def kind(self) -> str: ...

    @property
    def duration(self) -> Fraction | float | None: ...

    @property
    def frame_count_hint(self) -> int | None: ...


@dataclass(frozen=True)
class ClipRange:
    """A part of a clip; without arguments, the whole clip.

    Raises:
        ValueError: the part is empty or begins before the clip, or its start or its end is given twice.
    """

    start: Fraction | None = None  # seconds since the clip's zero; frames that begin earlier are left out
    end: Fraction | None = None  # seconds since the clip's zero; frames that begin at `end` or later are left out
    first: int = 0  # number of the first frame, counted from 0
    count: int | None = None  # how many frames at most; None: all up to the end

    def __post_init__(self) -> None:
        if self.start is not None and self.first:
            raise ValueError("a start and a number of the first frame both say where a part of a clip begins; give one")
        if self.end is not None and self.count is not None:
            raise ValueError("an end and a number of frames both say where a part of a clip ends; give one")
        if min(self.start or 0, self.first) < 0:
            raise ValueError("a part of a clip cannot begin before its clip")
        if self.count is not None and self.count < 1:
            raise ValueError("a part of a clip has at least one frame")
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(
                f"a part of a clip ends behind its start: {_short(self.end)} is not behind {_short(self.start)}"
            )

    @classmethod
    def of_frames(cls, first: int, end: int) -> Self:
        """Frames `first` to `end - 1`, counted from 0. Raises ValueError if there are none."""
        if end <= first:
            raise ValueError(f"frames {first}:{end} are none: the second number, where the part ends, must be larger")
        return cls(first=first, count=end - first)

    @property
    def whole(self) -> bool:
        """Whether the range is the whole clip."""
        return self == ClipRange()

    @property
    def label(self) -> str:
        """The suffix of a result's name, such as "_10s-12.5s" or "_f20-f40"; "" for the whole clip."""
        if self.whole:
            return ""
        begin = f"f{self.first}" if self.start is None and self.end is None else f"{_short(self.start)}s"
        if self.count is None:
            end = "" if self.end is None else f"{_short(self.end)}s"
        else:
            end = f"f{self.first + self.count}" if self.start is None else f"{self.count}f"
        return f"_{begin}-{end}"

    def applies_to(self, kind: str) -> bool:
        """Whether the range can leave out frames of media of this kind. Pictures are always read whole."""
        return kind != "image" and not self.whole

    def frames(self, clip: Long) -> int | None:
        """About how many frames of a clip are in the range, estimated from the header; None if it says too little."""
        total, seconds = clip.frame_count_hint, clip.duration
        if not self.applies_to(clip.kind):
            return total
        rate = total / seconds if total and seconds else None
        if rate is None and (self.start is not None or self.end is not None):
            return self.count
        first = self.first if self.start is None or rate is None else ceil(self.start * rate)
        behind = total if self.end is None or rate is None else ceil(self.end * rate)
        counts = [end - first for end in (total, behind) if end is not None]
        if self.count is not None:
            counts.append(self.count)
        return max(min(counts), 1) if counts else None

    def check_begins_in(self, clip: Long, path: Path) -> None:
        """Raise MediaError if the range starts at or after the clip's duration, according to its header."""
        if self.start is not None and clip.kind != "image" and clip.duration and self.start >= clip.duration:
            raise MediaError(f"{shown(path)}: {self.missing(clip.duration)}")

    def missing(self, seconds: Fraction | float | None = None, frames: int | None = None) -> str:
        """The part of an error message that says why the range has no frames.

        Args:
            seconds: the duration of the clip; used unless `frames` is given.
            frames: how many frames of the clip were read.
        """
        if frames is not None and self.end is not None:
            return f"no frame begins from {_short(self.start)} s up to {_short(self.end)} s; ask for a longer part"
        where = f"frame {self.first}" if self.start is None else f"{_short(self.start)} s"
        length = f"{float(seconds or 0):.2f} s" if frames is None else f"{frames} frame{'s' * (frames != 1)}"
        return f"has no frame from {where} on, it has {length}; begin earlier"


WHOLE = ClipRange()


def seconds_of(text: str) -> Fraction:
    """Parse a time such as "90", "12.5", "1:30" or "01:02:03.5" to seconds. Raises ValueError for anything else."""
    parts = CLOCK.fullmatch(text.strip())
    if parts is None or (parts[2] is not None and float(parts[3]) >= 60):
        raise ValueError(f"{text!r} is no time such as 90, 12.5, 1:30 or 01:02:03.5")
    hours, minutes = int(parts[1] or 0), int(parts[2] or 0)
    return hours * 3600 + minutes * 60 + Fraction(parts[3] if parts[3][-1] != "." else parts[3][:-1])


def frames_of(text: str) -> tuple[int, int | None]:
    """Parse a range of frames such as "100", "20:40", "20:" or ":40". Raises ValueError for anything else.

    Returns:
        (number of the first frame, how many frames; None: to the end). "100" is the first hundred frames; "20:40" is
        frames 20 to 39, counted from 0.
    """
    first, colon, end = text.strip().partition(":")
    numbers = [part for part in (first, end) if part]
    if not numbers or not all(part.isdecimal() and part.isascii() for part in numbers):
        raise ValueError(f"{text!r} is neither a number of frames such as 100 nor a part such as 20:40")
    if not colon:
        return 0, int(first)
    if end and int(end) <= int(first or 0):
        raise ValueError(f"{text!r} are no frames: the second number, where the part ends, must be larger")
    return int(first or 0), int(end) - int(first or 0) if end else None


def _short(seconds: Fraction | None) -> str:
    """Seconds as text, rounded to milliseconds, without trailing zeros: "12.5"."""
    return f"{float(seconds or 0):.3f}".rstrip("0").rstrip(".")
