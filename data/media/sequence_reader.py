"""What does a clip show whose frames are numbered pictures?"""

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

from data.media.errors import MediaError, shown
from data.media.frame import Frame
from data.media.image_pixels import over_white
from data.media.image_reader import ImageReader
from data.media.info import MediaInfo, MediaReader
from data.media.sequence import SEQUENCE_RATE, numbered


class SequenceReader(MediaReader):
    """The pictures one after the other, as a clip of `SEQUENCE_RATE`; one picture is in memory at a time.

    Missing numbers leave no gap in time: the pictures on both sides follow each other. Transparency is laid over white,
    as for every clip.

    Args:
        path: a folder, or a printf pattern of pictures.
    """

    def __init__(self, path: Path) -> None:
        pictures = numbered(path)
        self._files = pictures.files
        first = ImageReader(self._files[0])
        self.notes = first.notes
        if first.info.alpha is not None:
            self.notes += (f"{shown(path)}: has transparency, which is laid over white",)
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
            pixels = next(iter(picture)).pixels
            alpha = picture.info.alpha
            yield Frame.of_rgb(pixels if alpha is None else over_white(pixels, alpha), Fraction(index) / SEQUENCE_RATE)
