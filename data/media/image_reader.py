"""Reads pictures and animations (GIF, animated WebP, PNG and AVIF).

Pillow decodes, and `data.media.image_pixels` converts to sRGB. The transparency of a picture is in `MediaInfo.alpha`.
An animation becomes a clip, with its transparency if that is asked for; otherwise it is composited over white, the
background for which such files are made.
"""

from collections.abc import Generator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image, ImageFile

from data.media.animation_delays import delays_of, shown_for
from data.media.avif import avif_facts, avif_words
from data.media.clip_alpha import TRANSPARENT
from data.media.errors import MediaError, decoding, reason, shown
from data.media.frame import Frame
from data.media.heif import heif_words
from data.media.image_pixels import SrgbConverter, fill_hidden, over_white, to_srgb
from data.media.info import MediaInfo, MediaReader
from data.media.picture_file import (
    GRAY_ALPHA,
    OTHER_BYTE,
    decode,
    exif_orientation,
    first_shown,
    frame_count,
    notes_of,
    open_picture,
    picture_colour,
    quiet_pillow,
    raw_mode,
    tiles_of,
)
from data.media.picture_tags import read_tags


class ImageReader(MediaReader):
    """Reads a picture as a clip of one frame at time zero. The constructor decodes it; MediaError if it cannot."""

    def __init__(self, path: Path) -> None:
        with open_picture(path) as image, quiet_pillow():
            self.notes, avif = notes_of(image, path), avif_facts(image, path)
            low = _low_bytes(image, path)
            decode(image)
            words, unread = avif_words(image, path, avif) if image.format == "AVIF" else (heif_words(image, path), ())
            orientation = exif_orientation(image)  # after decoding: a PNG can have its EXIF after the pixels
            stored = image.mode.startswith("I") and not image.has_transparency_data  # Pillow keeps all 16 bits
            deep = stored or low is not None or words is not None
            convert = SrgbConverter(image, path, deep)
            self._pixels, alpha = to_srgb(image, convert, orientation, deep=deep, low=low, words=words)
            tags, changed = read_tags(image)
            if image.mode.startswith("I") and not deep:
                changed.append("has 16 bits and a transparent gray, the result has 8 bits")
            if image.mode == "F":
                changed.append("has floats as samples, the result has 8 bits")
            if convert.kept_profile:
                tags = replace(tags, profile=convert.kept_profile)
                changed = [what for what in changed if "colours converted" not in what]
            colour = picture_colour(image, path, avif)
            self.notes += tuple(unread) + tuple(f"{shown(path)}: {what}" for what in changed)
        if convert.problem:
            self.notes += (f"{shown(path)}: {convert.problem}",)
        if alpha is not None:
            with decoding(path):
                self._pixels = fill_hidden(self._pixels, alpha)
        _, height, width = self._pixels.shape
        depth = 8 if self._pixels.dtype == torch.uint8 else 16
        self.info = MediaInfo(
            path, "image", width, height, alpha=alpha, tags=tags, frame_count_hint=1, depth=depth, colour=colour
        )

    def _frames(self) -> Generator[Frame]:
        yield Frame.of_rgb(self._pixels, Fraction(0))


class AnimationReader(MediaReader):
    """Reads the composed frames of an animation; every frame keeps its own duration.

    The constructor decodes only the first frame, which decides whether the clip is transparent. (The palette of a GIF
    cannot decide it: in later frames, transparent pixels are those that do not change.) A PNG can begin with a picture
    for programs that show no animations; it is left out.

    Args:
        path: the file.
        alpha: "keep" gives frames with their transparency, "white" composites them over white.

    Raises:
        MediaError: the file or its first frame cannot be decoded; during an iteration, a later frame.
    """

    def __init__(self, path: Path, alpha: str = "white") -> None:
        self.path = path
        with open_picture(path) as image, quiet_pillow():
            self._first = first_shown(image)
            count, (width, height) = frame_count(image) - self._first, image.size
            first = _seek(image, self._first, path)
            convert = SrgbConverter(first)
            self._transparent = to_srgb(first, convert)[1] is not None
            notes = [convert.problem] if convert.problem else []
            if (bits := avif_facts(image, path).bits) > 8:
                notes.append(f"has {bits} bits a sample, of which 8 are read; an MP4 of it would keep them")
            if self._transparent and alpha == "white":
                notes.append(TRANSPARENT)
            self.notes = tuple(f"{shown(path)}: {note}" for note in notes)
            delays = delays_of(path, image.format)
            known = len(delays) == count
            self._delays = delays if known else []
            delays = delays if known else [shown_for(image.info.get("duration"), image.format)] * count
        duration = sum(delays, Fraction(0))
        self.info = MediaInfo(
            path,
            "animation",
            width,
            height,
            frame_rate=len(delays) / duration,
            variable_frame_rate=len(set(delays)) > 1 or not known,
            duration=duration,
            frame_count_hint=count,
            time_base=Fraction(1, 1000),
            transparent=self._transparent and alpha == "keep",
        )

    def _frames(self) -> Generator[Frame]:
        self.damage, time = None, Fraction(0)
        with open_picture(self.path) as image:
            for index in range(self._first, frame_count(image)):
                frame = _seek(image, index, self.path)
                if self._delays:
                    delay = self._delays[index - self._first]
                else:
                    delay = shown_for(frame.info.get("duration"), image.format)
                pixels, alpha = to_srgb(frame, SrgbConverter(frame, self.path))
                if alpha is not None and not self.info.transparent:
                    pixels, alpha = over_white(pixels, alpha), None
                    if not self._transparent and self.damage is None:
                        self.damage = f"{shown(self.path)}: {TRANSPARENT} from frame {index - self._first} on"
                yield Frame.of_rgb(pixels, time, alpha)
                time += delay


def _low_bytes(image: Image.Image, path: Path) -> Image.Image | None:
    """The low bytes of a 16-bit image with colour or alpha, as an 8-bit image.

    Pillow keeps only the high bytes of such images, so the file is decoded again with the other byte order.

    Returns:
        None for other images, and for those that declare one colour as transparent.
    """
    raw = raw_mode(image)
    if "transparency" in image.info or raw not in (*OTHER_BYTE, GRAY_ALPHA):
        return None
    with open_picture(path) as low:
        assert isinstance(low, ImageFile.ImageFile), "it was opened from a file"
        low.tile = [
            tile._replace(
                args=_other(tile.args) if isinstance(tile.args, str) else (_other(tile.args[0]), *tile.args[1:])
            )
            for tile in tiles_of(low)
        ]
        decode(low)
        if raw == GRAY_ALPHA:
            _, gray, _, alpha = low.split()
            return Image.merge("RGBA", (gray, gray, gray, alpha))
        return low.copy()


def _other(raw_mode: str) -> str:
    return "RGBA" if raw_mode == GRAY_ALPHA else OTHER_BYTE[raw_mode]


def _seek(image: Image.Image, index: int, path: Path) -> Image.Image:
    try:
        image.seek(index)
        image.load()
    except Exception as error:
        raise MediaError(
            f"{shown(path)}: only {index} of {frame_count(image)} frames could be decoded ({reason(error)}); get a "
            "complete copy, or cut the animation to its readable part"
        ) from error
    return image
