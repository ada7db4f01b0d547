"""A part of a clip: from a moment or a frame, up to a moment or for a number of frames.

Without torch, for flags and for probing. `data.media.clip_range_reader` reads it.
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
    """The length of a clip; `MediaInfo` and `Probe` have it."""

    @property
    def kind(self) -> str: ...

    @property
    def duration(self) -> Fraction | float | None: ...

    @property
    def frame_count_hint(self) -> int | None: ...


@dataclass(frozen=True)
class ClipRange:
    """A part of a clip; without arguments all of it.

    Raises:
        ValueError: it is empty, or its start or its end is given twice.
    """

    start: Fraction | None = None  # seconds since the clip's zero; frames first shown at `start` or later
    end: Fraction | None = None  # seconds; frames first shown before `end`
    first: int = 0  # number of the first frame, from 0
    count: int | None = None  # frames; None: to the end

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
        """Frames from number `first` up to `end`, which is not in it, both from 0."""
        if end <= first:
            raise ValueError(f"frames {first}:{end} are none: the second number is of the first frame behind the part")
        return cls(first=first, count=end - first)

    @property
    def whole(self) -> bool:
        """Whether it is all of a clip."""
        return self == ClipRange()

    @property
    def label(self) -> str:
        """The suffix of a result's name, such as "_10s-12.5s" or "_f20-f40"; "" for all of a clip."""
        if self.whole:
            return ""
        begin = f"f{self.first}" if self.start is None and self.end is None else f"{_short(self.start)}s"
        if self.count is None:
            end = "" if self.end is None else f"{_short(self.end)}s"
        else:
            end = f"f{self.first + self.count}" if self.start is None else f"{self.count}f"
        return f"_{begin}-{end}"

    def applies_to(self, kind: str) -> bool:
        """Whether it leaves anything out of media of a kind; a picture is always whole."""
        return kind != "image" and not self.whole

    def frames(self, clip: Long) -> int | None:
        """About how many frames of a clip lie in it, by what the file says; None where it says too little."""
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
        """MediaError where the clip is said to end before the range begins."""
        if self.start is not None and clip.kind != "image" and clip.duration and self.start >= clip.duration:
            raise MediaError(f"{shown(path)}: {self.missing(clip.duration)}")

    def missing(self, seconds: Fraction | float | None = None, frames: int | None = None) -> str:
        """A sentence for a range without frames: the clip lasts `seconds`, or `frames` frames were read."""
        if frames is not None and self.end is not None:
            return f"no frame begins from {_short(self.start)} s up to {_short(self.end)} s; ask for a longer part"
        where = f"frame {self.first}" if self.start is None else f"{_short(self.start)} s"
        length = f"{float(seconds or 0):.2f} s" if frames is None else f"{frames} frame{'s' * (frames != 1)}"
        return f"has no frame from {where} on, it has {length}; begin earlier"


WHOLE = ClipRange()


def seconds_of(text: str) -> Fraction:
    """Seconds from "90", "12.5", "1:30" or "01:02:03.5"; ValueError for anything else."""
    parts = CLOCK.fullmatch(text.strip())
    if parts is None or (parts[2] is not None and float(parts[3]) >= 60):
        raise ValueError(f"{text!r} is no time such as 90, 12.5, 1:30 or 01:02:03.5")
    hours, minutes = int(parts[1] or 0), int(parts[2] or 0)
    return hours * 3600 + minutes * 60 + Fraction(parts[3] if parts[3][-1] != "." else parts[3][:-1])


def frames_of(text: str) -> tuple[int, int | None]:
    """(first, count or None) from "100", "20:40", "20:" or ":40"; ValueError for anything else.

    "100" is the first hundred; "20:40" is from number 20 up to 40, which is not in it.
    """
    first, colon, end = text.strip().partition(":")
    numbers = [part for part in (first, end) if part]
    if not numbers or not all(part.isdecimal() and part.isascii() for part in numbers):
        raise ValueError(f"{text!r} is no number of frames such as 100, and no part such as 20:40")
    if not colon:
        return 0, int(first)
    if end and int(end) <= int(first or 0):
        raise ValueError(f"{text!r} are no frames: the second number is of the first frame behind the part")
    return int(first or 0), int(end) - int(first or 0) if end else None


def _short(seconds: Fraction | None) -> str:
    """Seconds as short as milliseconds are: "12.5"."""
    return f"{float(seconds or 0):.3f}".rstrip("0").rstrip(".")
