"""The facts of a file before its frames are read, and the interface of readers. Without torch, for probing."""

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
    """Facts of one file."""

    path: Path  # the file; of a sequence its folder or its pattern
    # "video"; "image" (one picture); "animation" (GIF, animated WebP or PNG); "sequence" (numbered pictures).
    kind: Kind
    width: int  # pixels as displayed, after rotation and EXIF orientation
    height: int  # pixels as displayed
    frame_rate: Fraction | None = None  # frames per second, exact; the average where the rate varies; None for pictures
    variable_frame_rate: bool = False  # the container suggests uneven times; a hint only, the frames' times are exact
    has_audio: bool = False  # there is an audio stream that can be read
    sample_aspect_ratio: Fraction = Fraction(1)  # width : height of one displayed pixel
    # Transparency of a picture, u8 [1, H, W], 255 opaque; None when it has none.
    alpha: Tensor | None = field(default=None, compare=False, repr=False)
    # Metadata of a picture; None for clips, whose file is read again when the result is written.
    tags: PictureTags | None = field(default=None, compare=False, repr=False)
    # Seconds from time zero to the end of the last frame, by the container; None without.
    duration: Fraction | None = None
    frame_count_hint: int | None = None  # the container's count, often wrong; for progress bars only
    time_base: Fraction | None = None  # seconds per tick of the container's clock
    time_origin: Fraction = Fraction(0)  # container time, in seconds, at the zero of frames and audio
    audio_codecs: tuple[str, ...] = ()  # of the audio streams that can be read, in order
    subtitle_codecs: tuple[str, ...] = ()  # of the subtitle streams, in order
    depth: int = 8  # bits of a sample; 32 for floats
    colour: Colour = SDR  # of the values
    transparent: bool = False  # frames of a clip come with alpha
    # Of a part of a clip (`ClipRange`): seconds of the whole clip before it; sound and subtitles are cut at its two
    # ends. None: the whole clip.
    cut: Fraction | None = None

    @property
    def transfer(self) -> int:
        """Of `colour`."""
        return self.colour.transfer


class MediaReader(ABC):
    """Yields frames in order. Every iteration starts at the first frame and holds a few frames in memory at a time.

    Attributes:
        info: facts of the file.
        notes: sentences about what was chosen or left out; `open_media` logs them once.
        damage: after an iteration, a sentence about frames lost to damaged data; None when nothing was lost.
    """

    info: MediaInfo
    notes: tuple[str, ...] = ()
    damage: str | None = None

    def __iter__(self) -> Generator[Frame]:
        """Decode lazily. Where the rest cannot be decoded, any exception of a decoder becomes a MediaError."""
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
        """The frames, by a decoder that may raise anything."""

    def stills(self, count: int) -> list[Frame]:
        """About `count` frames, spread evenly over the clip; fewer where it has fewer.

        Decodes all of it and keeps at most twice as many.
        """
        kept, every = [], 1
        for number, frame in enumerate(self):
            if number % every == 0:
                kept.append(frame)
            if len(kept) == 2 * count:
                kept, every = kept[::2], 2 * every
        return evenly_spaced(kept, count)

    def reopened(self) -> Self:
        """Another reader of the same file: its iterations do not disturb this one's, and no note is told twice."""
        return copy.copy(self)

    def close(self) -> None:  # noqa: B027 (a reader without open files has nothing to do)
        """Close open files; a running iteration ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def evenly_spaced(items: list, count: int) -> list:
    """`count` of the items, from the middles of equal shares; all of them where there are fewer."""
    if len(items) <= count:
        return items
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]


def middles(length: Fraction, count: int) -> list[Fraction]:
    """The middles of `count` equal shares of a length."""
    return [length * (2 * n + 1) / (2 * count) for n in range(count)]
