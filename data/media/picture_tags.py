"""The metadata of a picture file: EXIF, XMP, IPTC, texts, resolution, colour profile.

It is changed so that it describes the result, which is upright, in sRGB, of another size, and without a thumbnail.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from data.media.picture_file import tiff_tags_of

EXIF_START = b"Exif\0\0"
ORIENTATION, COLOUR_SPACE, SRGB = Base.Orientation, Base.ColorSpace, 1
WIDTHS, HEIGHTS = (Base.ImageWidth, Base.ExifImageWidth), (Base.ImageLength, Base.ExifImageHeight)
# The EXIF tags that are kept of a TIFF. The others in its first directory say how its pixels are stored.
DESCRIPTIVE = (
    Base.DocumentName, Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist,
    Base.HostComputer, Base.Copyright, Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords,
    Base.XPSubject,
)  # fmt: skip
IPTC_OF_TIFF, IPTC_OF_PHOTOSHOP = 33723, 0x0404
# EXIF tags of type 7 (undefined), which Pillow would write with another type. 27 and 28 are a GPS method and area.
UNDEFINED = (Base.ComponentsConfiguration, Base.UserComment, Base.MakerNote, Base.FileSource, Base.SceneType, 27, 28)
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
ENTRY = 12  # bytes of an entry of an EXIF directory


@dataclass(frozen=True)
class PictureTags:
    """The metadata that the result gets."""

    exif: bytes | None = None  # EXIF as a TIFF block, without the prefix "Exif\0\0"
    xmp: bytes | None = None  # XMP packet (XML)
    iptc: bytes | None = None  # IPTC-IIM records
    profile: bytes | None = None  # ICC profile of the result's pixels; None: the result gets none
    dpi: tuple[float, float] | None = None  # pixels per inch, horizontal and vertical
    texts: Mapping[str, str] = field(default_factory=dict)  # texts by keyword, as in PNG; the comment of other formats
    gray: bool = False  # whether the picture is gray


def read_tags(image: Image.Image) -> tuple[PictureTags, list[str]]:
    """(the tags of a decoded image, phrases for messages about tags that are left out or changed)."""
    notes: list[str] = []
    exif = _attempt(_exif_of, image, notes, "EXIF")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    gray = image.mode.split(";")[0] in GRAY_MODES
    profile = None if gray else _profile_of(image, notes)
    tags = PictureTags(
        exif=exif,
        xmp=_upright_xmp(xmp) if isinstance(xmp, bytes) else None,
        iptc=_attempt(_iptc_of, image, notes, "IPTC"),
        profile=profile,
        dpi=_dpi_of(image),
        texts=_texts_of(image),
        gray=gray,
    )
    return tags, notes


def for_size(exif: bytes, width: int, height: int) -> bytes | None:
    """EXIF corrected for an upright sRGB picture of this size in pixels; None if its directories are damaged.

    Values are replaced without moving any byte, since maker notes contain offsets.
    """
    block = bytearray(exif)
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        after = _set(
            block, order, start, {ORIENTATION: 1} | dict.fromkeys(WIDTHS, width) | dict.fromkeys(HEIGHTS, height)
        )
        struct.pack_into(f"{order}I", block, after, 0)  # remove the directory of the thumbnail
        for place in _values(block, order, start, IFD.Exif):
            sizes = dict.fromkeys(WIDTHS, width) | dict.fromkeys(HEIGHTS, height)
            _set(block, order, place, sizes | {COLOUR_SPACE: SRGB})
    except struct.error:
        return None
    return bytes(block)


def _set(block: bytearray, order: str, start: int, wanted: Mapping[Any, int]) -> int:
    """Replace the numbers of the entries in `wanted` of a directory.

    Returns:
        The position of the field that holds the offset of the next directory.
    """
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for number in range(count):
        at = start + 2 + ENTRY * number
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, at)
        if tag in wanted and values == 1 and kind in (3, 4):
            form = "H" if kind == 3 else "I"
            struct.pack_into(f"{order}{form}", block, at + 8, min(wanted[tag], 65535 if kind == 3 else 2**32 - 1))
    end = start + 2 + ENTRY * count
    struct.unpack_from(f"{order}I", block, end)
    return end


def _values(block: bytes | bytearray, order: str, start: int, wanted: int) -> Iterator[int]:
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for number in range(count):
        tag, kind, values, value = struct.unpack_from(f"{order}HHII", block, start + 2 + ENTRY * number)
        if tag == wanted and kind in (4, 13) and values == 1:
            yield value


def _exif_of(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        return _exif_of_tiff(image)
    raw = image.info.get("exif")
    if not raw and "Raw profile type exif" in image.info:
        raw = image.getexif().tobytes()
    return raw.removeprefix(EXIF_START) if raw and len(raw) > 14 else None


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    found, kept = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE:
        if tag in found:
            kept[tag] = found[tag]
    for directory in (IFD.Exif, IFD.GPSInfo):
        if directory in found and (values := found.get_ifd(directory)):
            kept.get_ifd(directory).update(values)
    return kept_as_found(kept).tobytes().removeprefix(EXIF_START) if len(kept) or kept._ifds else None


class StoredText(str):
    """A text of EXIF that is written as the bytes that were read (UTF-8 in most files); Pillow reads it as Latin-1."""

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        return super().encode("latin-1", "replace")


def kept_as_found(exif: Image.Exif) -> Image.Exif:
    """Prepare EXIF that Pillow has read, so that Pillow writes the same texts and types; changes and returns `exif`.

    Otherwise Pillow writes texts as ASCII only.
    """
    inner = [d for d in (IFD.Exif, IFD.GPSInfo) if d in exif or d in exif._ifds]
    for values in (exif, *map(exif.get_ifd, inner)):
        for tag, value in list(values.items()):
            if isinstance(value, str):
                values[tag] = StoredText(value)
            elif isinstance(value, bytes) and tag in UNDEFINED:
                values[tag] = (bytearray(value),)  # Pillow writes bytes as type 1, but a bytearray as type 7
    return exif


def _iptc_of(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        # The raw bytes: many programs declare them as numbers, of which Pillow would return only the first.
        return tiff_tags_of(image)._tagdata.get(IPTC_OF_TIFF) or None
    return image.info.get("photoshop", {}).get(IPTC_OF_PHOTOSHOP)


def _profile_of(image: Image.Image, notes: list[str]) -> bytes | None:
    """The sRGB profile for the result, if the image has a profile that can be read; otherwise None."""
    given = image.info.get("icc_profile")
    if not given:
        return None
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(given))).strip()
    except Exception:  # `SrgbConverter.problem` says why it is ignored
        return None
    if "srgb" in name.lower() and image.mode in ("RGB", "RGBA", "P", "PA"):
        return given
    notes.append(f"colours converted from {name!r} to sRGB")
    return srgb_profile()


def srgb_profile() -> bytes:
    """LittleCMS's sRGB profile with a fixed creation time, so that the same picture gives the same bytes."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(made)


def _dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e5 and 0 < down < 1e5 else None


def _texts_of(image: Image.Image) -> dict[str, str]:
    if image.format == "PNG":
        texts = {name: str(text) for name, text in image.text.items()}  # type: ignore[attr-defined]
        return {name: text for name, text in texts.items() if name != "XML:com.adobe.xmp" and "Raw profile" not in name}
    comment = image.info.get("comment")
    return {"Comment": comment.decode("utf-8", "replace")} if isinstance(comment, bytes) and comment else {}


def _upright_xmp(xmp: bytes) -> bytes:
    """XMP with its orientation set to 1, in the same number of bytes."""
    xmp = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])[1-8]([\"'])", rb"\g<1>1\g<2>", xmp)
    return re.sub(rb"(<tiff:Orientation>\s*)[1-8](\s*</)", rb"\g<1>1\g<2>", xmp)


def _attempt(
    read: Callable[[Image.Image], bytes | None], image: Image.Image, notes: list[str], what: str
) -> bytes | None:
    try:
        return read(image)
    except Exception:  # the picture can be used without valid tags
        notes.append(f"{what} left out, it is damaged")
        return None
