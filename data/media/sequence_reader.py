"""Reads a clip whose frames are numbered pictures."""

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import torch

from data.media.clip_alpha import TRANSPARENT, deep_over_white
from data.media.errors import MediaError, shown
from data.media.frame import Frame
from data.media.image_pixels import over_white
from data.media.image_reader import ImageReader
from data.media.info import MediaInfo, MediaReader
from data.media.sequence import SEQUENCE_RATE, numbered


class SequenceReader(MediaReader):
    """Reads numbered pictures as a clip of `SEQUENCE_RATE` frames per second; one picture is in memory at a time.

    Missing numbers leave no gap in time: the next picture follows after one frame step.

    Args:
        path: a folder, or a printf pattern of pictures.
        alpha: "keep" gives frames with their transparency, "white" composites them over white.

    Raises:
        MediaError: the pictures are not one clip, see `numbered`, or the first one cannot be read; during an iteration,
            a picture cannot be read or has another size.
    """

    def __init__(self, path: Path, alpha: str = "white") -> None:
        pictures = numbered(path)
        self._files, self._keeps = pictures.files, alpha == "keep"
        first = ImageReader(self._files[0])
        self.notes = first.notes
        if first.info.alpha is not None and not self._keeps:
            self.notes += (f"{shown(path)}: {TRANSPARENT}",)
        if pictures.missing:
            self.notes += (f"{shown(path)}: {pictures.missing}; the clip goes on without them",)
        self.info = MediaInfo(
            path,
            "sequence",
            first.info.width,
            first.info.height,
            frame_rate=SEQUENCE_RATE,
            duration=len(self._files) / SEQUENCE_RATE,
            frame_count_hint=len(self._files),
            time_base=1 / SEQUENCE_RATE,
            depth=first.info.depth,
            colour=first.info.colour,
            transparent=self._keeps and first.info.alpha is not None,
        )

    def _frames(self) -> Generator[Frame]:
        wanted = (self.info.width, self.info.height)
        for index, file in enumerate(self._files):
            picture = ImageReader(file)
            size = (picture.info.width, picture.info.height)
            if size != wanted:
                raise MediaError(
                    f"{shown(self.info.path)}: {shown(file)} is {size[0]}x{size[1]} and the first picture "
                    f"{wanted[0]}x{wanted[1]}; the frames of a clip have one size"
                )
            (pixels,) = next(iter(picture)).planes
            time, alpha = Fraction(index) / SEQUENCE_RATE, picture.info.alpha
            if alpha is None or self._keeps:
                yield Frame.of_rgb(pixels[0], time, alpha)
            elif pixels.dtype == torch.uint8:
                yield Frame.of_rgb(over_white(pixels[0], alpha), time)
            else:
                frame = Frame.of_rgb(pixels[0], time, alpha)
                yield deep_over_white(frame, self.info.transfer) or frame
