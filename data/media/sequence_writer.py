"""Writes a clip as a folder of numbered pictures, which appears complete or not at all."""

import os
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from common.logger import get_logger
from data.media.clock import USUAL_RATE
from data.media.colour import png_chunk
from data.media.deep_picture import png_info
from data.media.encoding import Encoding
from data.media.errors import MediaError, shown
from data.media.image_writer import save, stored_rgb
from data.media.info import MediaInfo
from data.media.segmented import SegmentedWriter

logger = get_logger(__name__)

FRAMES_OUT = ("png",)
FRAME = "frame_%05d.png"  # names of frames, numbered from 1
OURS = re.compile(r"frame_\d{5,}\.png")


class SequenceWriter(SegmentedWriter):
    """Writes frame_00001.png, frame_00002.png, ... into a folder.

    Pictures have no times and no sound, so both are left out, and a message says so. A segment that is kept is a folder
    with some of the frames.

    Args:
        path: the folder to write. An existing folder is replaced if it holds only such frames.
        info: the input.
        encoding: an encoding of PNG: bits per sample, alpha and colour.
        frame_rate: the frames per second that the message states; None: those of the input.
        quiet: do not log what is left out.
        identity: see `open_writer`.

    Raises:
        MediaError: a file, or a folder with anything else in it, has this name.
    """

    def __init__(
        self,
        path: Path,
        info: MediaInfo,
        *,
        encoding: Encoding,
        frame_rate: Fraction | None = None,
        quiet: bool = False,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        if why := why_not_replaced(path):
            raise MediaError(why)
        super().__init__(path, is_folder=True)
        self.encoding, self.result_bits = encoding, encoding.result_bits
        self.pnginfo = png_info(png_chunk(encoding.colour))
        self._take_up(identity, info.frame_count_hint, quiet)
        if not quiet:
            left_out = ["sound"] * info.has_audio + ["the uneven times of its frames"] * info.variable_frame_rate
            rate = frame_rate or info.frame_rate or USUAL_RATE
            also = f"; {' and '.join(left_out)} left out, pictures have none" if left_out else ""
            logger.info("%s: pictures of a clip of %s frames per second%s", shown(path), rate, also)

    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        kept = pixels[:, : 3 + self.encoding.layout.alpha]
        return (stored_rgb(kept, self.encoding.layout.depth, self.encoding.dither),)

    def _write_one(self, planes: tuple[Tensor, ...], time: Fraction) -> None:
        if self.border is not None:
            self._keep_segment()
            self.temporary.mkdir()
        (picture,) = planes
        save(self.temporary / (FRAME % (self.frames + 1)), "PNG", picture, {"pnginfo": self.pnginfo})

    def _finish(self) -> None:
        """Add the frames of the kept segments to the last ones; MediaError if other files have the name meanwhile."""
        if why := why_not_replaced(self.path):
            raise MediaError(why)
        if self.kept is not None:
            for folder in map(self.kept.path, self.kept.pieces):
                for picture in folder.iterdir():
                    _have_too(picture, self.temporary)

    def _release(self) -> None:
        """There is nothing to close."""


def _have_too(file: Path, folder: Path) -> None:
    """Link a file into a folder. On a disk without hard links it is moved there, so the kept segment loses it."""
    try:
        os.link(file, folder / file.name)
    except OSError:
        os.replace(file, folder / file.name)


def why_not_replaced(folder: Path) -> str | None:
    """Why a folder of frames cannot be written here, as a sentence; None if there is nothing, or only such frames."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"{shown(folder)}: {folder} is a file; rename it, or choose another place"
    other = next((entry for entry in sorted(folder.iterdir()) if not OURS.fullmatch(entry.name)), None)
    if other is None:
        return None
    return (
        f"{shown(folder)}: {folder} holds {shown(other)}, which is not a frame of a result; rename it, or choose "
        "another place"
    )
