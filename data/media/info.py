"""The facts of a file before its frames are read, and the interface of readers. Works without torch, for probing."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from data.media.colour import SDR, Colour
from data.media.errors import MediaError, decoding

if TYPE_CHECKING:
    from torch import Tensor

    from data.media.frame import Frame
    from data.media.picture_tags import PictureTags

__all__ = ["Kind", "MediaError", "MediaInfo", "MediaReader"]

Kind = Literal["video", "image", "animation", "sequence"]


@dataclass(frozen=True)
class MediaInfo:
    """The facts of one file."""

    path: Path  # the file; of a sequence, its folder or its pattern
    # "video"; "image" (one picture); "animation" (GIF, animated WebP, PNG or AVIF); "sequence" (numbered pictures).
    kind: Kind
    width: int  # pixels as displayed, after rotation and EXIF orientation
    height: int  # pixels as displayed
    frame_rate: Fraction | None = None  # frames per second; the average if the rate varies; None for pictures
    variable_frame_rate: bool = False  # the container suggests uneven times; only a hint: frames have exact times
    has_audio: bool = False  # whether there is an audio stream that can be read
    sample_aspect_ratio: Fraction = Fraction(1)  # width : height of one displayed pixel
    # Alpha of a picture [1, H, W]: u8, 255 is opaque, or 16-bit words (int16). None if every pixel is opaque.
    alpha: Tensor | None = field(default=None, compare=False, repr=False)
    # Metadata of a picture; None for clips, whose metadata is read from the file when the result is written.
    tags: PictureTags | None = field(default=None, compare=False, repr=False)
    # Seconds from time zero to the end of the last frame, by the container; None if it does not state it.
    duration: Fraction | None = None
    frame_count_hint: int | None = None  # the number of frames by the container; often wrong; None if unknown
    time_base: Fraction | None = None  # seconds per tick of the container's clock
    time_origin: Fraction = Fraction(0)  # container time, in seconds, that is time zero of frames and sound
    audio_codecs: tuple[str, ...] = ()  # codecs of the audio streams that can be read, in order
    subtitle_codecs: tuple[str, ...] = ()  # codecs of the subtitle streams that can be read, in order
    depth: int = 8  # bits per sample, 8 to 16
    colour: Colour = SDR  # colour of the pixels
    transparent: bool = False  # whether the frames of a clip have alpha
    # For a part of a clip (`ClipRange`): how many seconds of the clip come before it; sound and subtitles are cut at
    # both ends of the part. None: the whole clip.
    cut: Fraction | None = None

    @property
    def transfer(self) -> int:
        """The transfer characteristics of `colour`, a number of ITU-T H.273."""
        return self.colour.transfer


class MediaReader(ABC):
    """Yields frames in order. Every iteration starts at the first frame and holds a few frames in memory at a time.

    Attributes:
        info: the facts of the file.
        notes: sentences about what was chosen or left out; `open_media` logs them once.
        damage: after an iteration, a sentence about what was damaged, lost or changed; None if there is nothing to say.
    """

    info: MediaInfo
    notes: tuple[str, ...] = ()
    damage: str | None = None

    def __iter__(self) -> Generator[Frame]:
        """Decode frames lazily. Any exception of a decoder is raised as a MediaError, which ends the iteration."""
        frames = self._frames()
        try:
            while True:
                with decoding(self.info.path):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame
        finally:
            frames.close()

    @abstractmethod
    def _frames(self) -> Generator[Frame]:
        """Decode the frames; `__iter__` converts any exception to MediaError."""

    def stills(self, count: int) -> list[Frame]:
        """About `count` frames, spread evenly over the clip; all frames if it has fewer.

        Decodes the whole clip, and holds at most 2 * `count` frames.
        """
        kept, every = [], 1
        for number, frame in enumerate(self):
            if number % every == 0:
                kept.append(frame)
            if len(kept) == 2 * count:
                kept, every = kept[::2], 2 * every
        return evenly_spaced(kept, count)

    def reopened(self) -> Self:
        """Another reader of the same file, whose iterations are independent of this one's. It logs no notes again."""
        return copy.copy(self)

    def close(self) -> None:  # noqa: B027 (a reader without open files has nothing to do)
        """Close open files. An iteration that is running cannot continue."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def evenly_spaced(items: list, count: int) -> list:
    """`count` of the items, those in the middles of equal parts of the list; all items if there are no more."""
    if len(items) <= count:
        return items
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]


def middles(length: Fraction, count: int) -> list[Fraction]:
    """The middles of `count` equal parts of a length, such as a duration in seconds."""
    return [length * (2 * n + 1) / (2 * count) for n in range(count)]
