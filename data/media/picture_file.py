"""Opens picture files and reads facts about them before pixels are decoded. Works without torch, for probing."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import JpegImageFile

from common.logger import get_logger, printable
from data.media.avif import AvifFacts, reads_all_bits
from data.media.colour import Colour, colour_of_png
from data.media.errors import MediaError, decoding, shown
from data.media.heif import heif_bits, heif_colour
from data.media.picture_formats import formats_of, holds_picture_format
from data.media.tiff_tags import BITS, described

logger = get_logger(__name__)

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")

# Pillow keeps only the high bytes of 16-bit colour. Declaring the other byte order makes it decode the low bytes.
OTHER_BYTE = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",  # as libtiff returns them: low byte first on little-endian machines
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
}
GRAY_ALPHA = "LA;16B"  # four bytes per pixel: two of gray, two of alpha

# Pillow's limit. Decoding takes at most 12 bytes per pixel, 2.1 GB: 4 in Pillow (8 for 16-bit colour), 3 or 4 in the
# result, and the rest for filling hidden colours. Pictures of 16 bits take about 19 bytes per pixel. Composing an
# animation takes several copies of a frame.
MOST_PIXELS = 178_956_970
MOST_ANIMATION_PIXELS = MOST_PIXELS // 4


def holds_picture(path: Path) -> bool:
    """Whether a file holds a picture or an animation, and not a video, by its first bytes.

    Raises:
        MediaError: there is no such file, it is not a regular file, or it is a picture of a kind that cannot be read.
    """
    if not path.exists():
        raise MediaError(f"{printable(str(path))}: there is no such file")
    if not path.is_file():
        raise MediaError(f"{printable(str(path))}: is not a regular file")
    return holds_picture_format(path)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture as a Pillow image, without decoding pixels. Every exception in the block becomes a MediaError.

    A JPEG of more pixels than the limit, up to twice as many, is decoded at half of its height and width. Larger ones
    are refused, because a progressive JPEG takes six bytes for each pixel of the whole picture.

    Raises:
        MediaError: the picture is damaged, too large, or of a kind that is not read.
    """
    with decoding(path, "the picture is damaged"), _open(path) as image:
        if image.format == "TIFF":
            image.load_end = lambda: _keep_as_stored(image)  # type: ignore[attr-defined]
        if image.format == "TIFF" and image.mode == "I" and tiff_tags_of(image).get(BITS) == (32,):
            raise MediaError(f"{shown(path)}: a TIFF of 32-bit integers, which is not read; convert it to 16 bits")
        animated = is_animation(image)
        if image.format in ("JPEG", "MPO") and MOST_PIXELS < _pixels(image) <= 2 * MOST_PIXELS:
            image.draft(None, (image.size[0] // 2, image.size[1] // 2))
        if _pixels(image) > (MOST_ANIMATION_PIXELS if animated else MOST_PIXELS):
            raise _too_large(path, animated)
        yield image


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings about invalid tags and large pictures; this package has its own messages for those.

    Use it only around calls of Pillow, because the warnings of the whole process are suppressed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(image: Image.Image) -> None:
    """Decode the pixels. libtiff's messages on standard error are suppressed; its errors are raised by Pillow."""
    try:
        screen = os.dup(2) if image.format == "TIFF" else None
    except OSError:  # standard error is closed, so nothing can be printed
        screen = None
    if screen is None:
        image.load()
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        image.load()
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def is_animation(image: Image.Image) -> bool:
    """Whether an image has several frames that are shown one after the other; pages of a TIFF or an MPO are not."""
    return image.format in ANIMATED and getattr(image, "n_frames", 1) > 1


def is_deep(image: Image.Image, avif: AvifFacts) -> bool:
    """Whether an image that is not decoded yet is read with more than 8 bits per sample.

    Args:
        image: the open picture.
        avif: its `avif_facts`.
    """
    if image.format == "AVIF":
        return reads_all_bits(image, avif)
    return heif_bits(image) > 8 or image.mode.startswith("I") or raw_mode(image) in (*OTHER_BYTE, GRAY_ALPHA)


def picture_colour(image: Image.Image, path: Path, avif: AvifFacts) -> Colour:
    """The colour that the file of an open picture names by numbers of H.273; `avif` are its `avif_facts`."""
    if image.format == "AVIF":
        return avif.colour
    return colour_of_png(path) if image.format == "PNG" else heif_colour(image)


def frame_count(image: Image.Image) -> int:
    """The number of frames or pages of an open image; for some formats, Pillow reads the whole file to count them."""
    return getattr(image, "n_frames", 1)


def tiff_tags_of(image: Image.Image) -> Any:
    """Pillow's `ImageFileDirectory_v2` of a TIFF; the type of `image` does not declare it, hence `Any`."""
    return image.tag_v2  # type: ignore[attr-defined]


def tiles_of(image: Image.Image) -> list[Any]:
    """Pillow's list of where and how the file stores the image's samples; empty after decoding."""
    return getattr(image, "tile", [])


def raw_mode(image: Image.Image) -> str | None:
    """Pillow's name of the file's sample layout; None after decoding, or if it changes within the file."""
    modes = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in tiles_of(image) if tile.args}
    return modes.pop() if len(modes) == 1 else None


def first_shown(image: Image.Image) -> int:
    """The index of the first frame of an animation: 1 if a PNG begins with a picture for other programs, else 0."""
    return int(bool(image.info.get("default_image") or getattr(image, "default_image", False)))


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if the tag is missing or cannot be read. For some PNGs, Pillow must decode."""
    try:
        if image.format == "TIFF" and Base.Orientation in tiff_tags_of(image):
            value = tiff_tags_of(image)[Base.Orientation]
        else:
            value = image.getexif().get(Base.Orientation, 1)
    except Exception:  # another tag is invalid; this one can still be read
        value = _orientation_alone(image.info.get("exif"))
    return value if value in range(1, 9) else 1


def _orientation_alone(exif: bytes | None) -> int:
    """The orientation in a block of EXIF, found without reading other tags, which may be damaged; 1 if missing."""
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * number)
            if tag == Base.Orientation and kind == 3:  # a short
                return value
    except struct.error:
        return 1
    return 1


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels after rotation by EXIF. The pixels are not decoded, except in some PNGs with EXIF."""
    width, height = image.size
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return height, width
    sideways = exif_orientation(image) >= 5 and image.format != "TIFF"  # for TIFF, Pillow gives the turned size
    return (width, height) if sideways else (height, width)


def notes_of(image: Image.Image, path: Path) -> tuple[str, ...]:
    """Sentences about the parts of a picture that are not read: further pages, resolution."""
    notes = []
    if (count := frame_count(image)) > 1:
        notes.append(f"{shown(path)}: holds {count} pictures; the first is used")
    if getattr(image, "decoderconfig", ()) and image.format in ("JPEG", "MPO"):
        size = f"{image.size[0]}x{image.size[1]}"
        notes.append(f"{shown(path)}: has more than {MOST_PIXELS // 10**6} megapixels; it is read as {size}")
    return tuple(notes)


def _open(path: Path) -> Image.Image:
    try:
        with quiet_pillow():
            return Image.open(path, formats=formats_of(path))
    except UnidentifiedImageError as error:
        tiff = described(path)
        if tiff:
            raise MediaError(
                f"{shown(path)}: this kind of TIFF is not read ({tiff}), or it is damaged; convert it to a TIFF or PNG "
                "of 8 or 16 bits"
            ) from error
        raise MediaError(f"{shown(path)}: not a picture that can be read, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        with path.open("rb") as file:
            jpeg = file.read(3) == b"\xff\xd8\xff"
        if not jpeg:
            raise _too_large(path) from error
        return JpegImageFile(path)


def _pixels(image: Image.Image) -> int:
    return image.size[0] * image.size[1]


def _too_large(path: Path, animated: bool = False) -> MediaError:
    limit = MOST_ANIMATION_PIXELS if animated else MOST_PIXELS
    return MediaError(
        f"{shown(path)}: has more than {limit // 10**6} megapixels{' a frame' if animated else ''}, which is not "
        "decoded; make it smaller, or cut it into pieces"
    )


def _keep_as_stored(image: Image.Image) -> None:
    """Replace Pillow's rotation of a TIFF, which copies the picture and fails if the EXIF is invalid.

    Before this call, Pillow gives the size of the rotated picture; after it, the stored size. The EXIF directories are
    read here, while the file is open.
    """
    image._size = image.im.size
    try:
        exif = image.getexif()
        for directory in (IFD.Exif, IFD.GPSInfo):
            exif.get_ifd(directory)
    except Exception as error:  # the pixels can be used without a valid EXIF
        logger.debug("EXIF: %s", error)
