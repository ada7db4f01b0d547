"""Reads a part of a clip as a clip with its own time zero.

The file is decoded from its beginning, and frames before the part are dropped. So the frames are bit-identical to those
of the whole clip, and their times are exact, even if the container's index is wrong or missing.
"""

from collections.abc import Generator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Self

from data.media.clip_range import ClipRange
from data.media.errors import MediaError, shown
from data.media.frame import Frame
from data.media.info import MediaReader, middles
from data.media.video_reader import VideoReader


class ClipRangeReader(MediaReader):
    """The frames of a part of a clip; their times start at zero.

    A part that begins with the clip keeps the clip's zero. Otherwise its first frame becomes time zero, for sound and
    subtitles too (`MediaInfo.cut`), and the constructor decodes up to this frame.

    Args:
        reader: reads the whole clip; `close` closes it.
        clip_range: the part, not the whole clip.

    Raises:
        MediaError: the part has no frame. If the part begins with the clip, the iteration may raise it instead.
    """

    def __init__(self, reader: MediaReader, clip_range: ClipRange) -> None:
        self._reader, self._range = reader, clip_range
        self.notes, whole = reader.notes, reader.info
        clip_range.check_begins_in(whole, whole.path)
        self._zero = Fraction(0)
        self._begun: tuple[Frame, Generator[Frame]] | None = None
        if clip_range.first or clip_range.start:
            frames = self._frames_in_range()
            first = next(frames)
            self._zero, self._begun = first.time, (first, frames)  # the first iteration continues with these
        count = clip_range.frames(whole)
        left = [end - self._zero for end in (whole.duration, clip_range.end) if end is not None]
        if clip_range.count is not None and whole.frame_rate and not whole.variable_frame_rate:
            left.append(clip_range.count / whole.frame_rate)
        self.info = replace(
            whole,
            frame_count_hint=count,
            duration=min(left, default=None),
            time_origin=whole.time_origin + self._zero,
            cut=self._zero,
        )

    def _frames_in_range(self) -> Generator[Frame]:
        """The frames of the part, with their times in the whole clip; MediaError if there are none."""
        clip_range, number, given = self._range, -1, 0
        frames = iter(self._reader)
        try:
            for number, frame in enumerate(frames):
                if clip_range.end is not None and frame.time >= clip_range.end:
                    break
                if number < clip_range.first or (clip_range.start is not None and frame.time < clip_range.start):
                    continue
                yield frame
                given += 1
                if given == clip_range.count:
                    break
            else:
                self.damage = self._reader.damage
        finally:
            frames.close()
        if not given:
            what = clip_range.missing(frames=number + 1)
            raise MediaError(f"{shown(self._reader.info.path)}: {what}")

    def _frames(self) -> Generator[Frame]:
        self.damage = None
        begun, self._begun = self._begun, None
        first, frames = begun or (None, self._frames_in_range())
        try:
            for frame in frames if first is None else chain([first], frames):
                yield replace(frame, time=frame.time - self._zero)
        finally:
            frames.close()

    def stills(self, count: int) -> list[Frame]:
        found = []
        if self.info.duration is not None and isinstance(self._reader, VideoReader):
            moments = [self._zero + moment for moment in middles(self.info.duration, count)]
            found = [replace(frame, time=frame.time - self._zero) for frame in self._reader.shown_at(moments)]
        return found if len(found) == count else super().stills(count)

    def reopened(self) -> Self:
        other = super().reopened()
        other._reader, other._begun, other.damage = self._reader.reopened(), None, None
        return other

    def close(self) -> None:
        if self._begun is not None:
            self._begun[1].close()
        self._reader.close()
