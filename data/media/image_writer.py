"""Writes a picture in the format of its suffix, with the input's transparency and tags, if the format has them."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from common.logger import get_logger
from data.image.transforms.na_resize import resize_8_bit
from data.media.colour import SDR, Colour, png_chunk
from data.media.deep_picture import png_info, save_png, save_tiff
from data.media.errors import shown
from data.media.info import MediaInfo
from data.media.media_writer import MediaWriter
from data.media.names import WRITABLE_IMAGES
from data.media.picture_tags import EXIF_START, IPTC_OF_PHOTOSHOP, IPTC_OF_TIFF, PictureTags, for_size, kept_as_found
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout

logger = get_logger(__name__)

COMPRESS_LEVEL = 3  # zlib level of PNG: three times as fast as level 6 and 2 % larger, see docs/decisions/0004
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": COMPRESS_LEVEL},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95, "method": 4},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}
WITH_ALPHA = ("PNG", "WEBP", "TIFF")
WITHOUT_GRAY = ("WEBP",)
XMP_OF_PNG, XMP_OF_TIFF = "XML:com.adobe.xmp", 700
MOST_IN_JPEG = 65_500  # bytes; metadata of a JPEG must fit into one segment


class ImageWriter(MediaWriter):
    """Writes one frame as a picture.

    Args:
        path: the file to write; its suffix, a key of `WRITABLE_IMAGES`, names the format.
        info: the input. Its `alpha` is resized to the size of the frame; its `tags` are written.
        metadata: False leaves out all tags but the colour profile.
        quiet: do not log what is left out.
        bits: bits per sample, 8 or 16; 16 for PNG and TIFF only.
        colour: the colour with which a PNG is tagged.

    Raises:
        ValueError: a second frame is written.
    """

    def __init__(
        self,
        path: Path,
        info: MediaInfo,
        *,
        metadata: bool = True,
        quiet: bool = False,
        bits: int = 8,
        colour: Colour = SDR,
    ) -> None:
        super().__init__(path)
        self.format = WRITABLE_IMAGES[path.suffix.lower()]
        self.bits, self.colour, self.dither = bits, colour, bits == 8 and info.depth > 8
        self.result_bits = 16 if self.dither else bits
        if self.dither and not quiet:
            logger.warning("%s: has %d bits a sample, the result has 8, dithered", shown(info.path), info.depth)
        self.alpha = info.alpha
        tags = info.tags or PictureTags()
        self.tags = tags if metadata else PictureTags(profile=tags.profile, gray=tags.gray)
        self.quiet = quiet
        if self.alpha is not None and self.format not in WITH_ALPHA:
            if not quiet:
                logger.warning("%s: %s has no transparency; it is left out", shown(path), self.format)
            self.alpha = None

    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (stored_rgb(pixels[:, :3], self.bits, self.dither),)

    def _write_one(self, planes: tuple[Tensor, ...], time: Fraction) -> None:
        if self.frames:
            raise ValueError(f"{shown(self.path)}: a picture holds one frame; write clips to .mp4")
        (picture,) = planes
        height, width = picture.shape[-2:]
        if self.alpha is not None:
            alpha = in_bits(resize_alpha(self.alpha, (height, width)), self.bits)
            picture = torch.cat([picture, alpha])
        options, left_out = saving(self.tags, self.format, (width, height))
        if self.format == "PNG":
            options["pnginfo"] = png_info(png_chunk(self.colour), options.get("pnginfo"))
        gray = self.tags.gray and self.format not in WITHOUT_GRAY
        left_out += save(self.temporary, self.format, picture, options, gray)
        if left_out and not self.quiet:
            names = ", ".join(left_out)
            logger.warning("%s: left out, %s has no place for them: %s", shown(self.path), self.format, names)

    def _finish(self) -> None:
        """There is nothing left to write: `_write_one` has written the file."""

    def _release(self) -> None:
        """There is nothing to close."""


def save(path: Path, picture_format: str, picture: Tensor, options: dict, gray: bool = False) -> list[str]:
    """Write a picture.

    Args:
        path: the file to write.
        picture_format: Pillow's name of the format, such as "PNG"; 16-bit words need "PNG" or "TIFF".
        picture: [3 or 4, H, W], u8 or 16-bit words (int16).
        options: options of Pillow's `save`.
        gray: store one gray channel. 16-bit pictures with alpha keep their colour channels.

    Returns:
        Names of the tags that are left out.
    """
    values = picture.permute(1, 2, 0).contiguous().numpy()  # H W C
    if values.dtype == np.int16:
        words = values.view(np.uint16)
        if gray and words.shape[2] == 3:
            words = gray_of(words)
        if picture_format == "TIFF":
            return save_tiff(path, words, options)
        save_png(path, words, options, COMPRESS_LEVEL)
        return []
    image = Image.fromarray(values)
    if gray:
        image = image.convert("L" if values.shape[2] == 3 else "LA")
    image.save(path, format=picture_format, **OPTIONS[picture_format] | options)
    return []


def gray_of(words: np.ndarray) -> np.ndarray:
    """u16 [H, W, 3] -> u16 [H, W], with the weights that Pillow uses for 8 bits (BT.601 luma)."""
    return ((words.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 32768) >> 16).astype(np.uint16)


def stored_rgb(pixels: Tensor, bits: int, dither: bool) -> Tensor:
    """The samples that a picture stores: `pixels` dithered from 16-bit words to `bits` bits, or unchanged.

    Args:
        pixels: [T, 3, H, W] RGB or [T, 4, H, W] RGBA, u8 or 16-bit words (int16).
        bits: bits per sample of the picture, 8 or 16.
        dither: False returns `pixels` unchanged.
    """
    if not dither or pixels.dtype == torch.uint8:
        return pixels
    layout = YuvLayout(model="rgb", subsampling=(1, 1), depth=bits, alpha=pixels.shape[1] == 4)
    return torch.stack(from_rgb(pixels, layout, dither), dim=1)


def in_bits(alpha: Tensor, bits: int) -> Tensor:
    """Alpha of u8 or 16-bit words (int16), converted to 8 or 16 bits."""
    if bits == 16 and alpha.dtype == torch.uint8:
        return (alpha.to(torch.int32) * 257).to(torch.int16)
    if bits == 8 and alpha.dtype == torch.int16:
        return (((alpha.to(torch.int32) & 65535) + 128) // 257).to(torch.uint8)
    return alpha


def saving(tags: PictureTags, picture_format: str, size: tuple[int, int]) -> tuple[dict, list[str]]:
    """Select the tags of a picture that its format can store.

    Args:
        tags: the tags of the input.
        picture_format: Pillow's name of the format.
        size: (width, height) of the result, which EXIF states.

    Returns:
        (options for Pillow's `save`, names of the tags that are left out).
    """
    exif = for_size(tags.exif, *size) if tags.exif else None
    given = {
        "exif": exif,
        "xmp": tags.xmp,
        "iptc": tags.iptc,
        "profile": tags.profile,
        "dpi": tags.dpi,
        "texts": dict(tags.texts),
    }
    options = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp, "TIFF": _tiff, "BMP": _bmp}[picture_format](given)
    names = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "profile": "colour profile", "dpi": "dpi", "texts": "texts"}
    left_out = [names[key] for key, value in given.items() if value]
    if tags.exif and exif is None:
        left_out.insert(0, "damaged EXIF")
    return options, left_out


# Each of these functions moves the tags that its format can store from `given` to options of Pillow's `save`.


def _png(given: dict) -> dict:
    info = PngInfo()
    for name, text in given.pop("texts").items():
        info.add_itxt(name, text) if not text.isascii() else info.add_text(name, text)
    if xmp := given.pop("xmp"):
        info.add_itxt(XMP_OF_PNG, xmp.decode("utf-8", "replace"))
    options = {"pnginfo": info, "exif": given.pop("exif"), "icc_profile": given.pop("profile"), "dpi": given.pop("dpi")}
    return _present(options)


def _jpeg(given: dict) -> dict:
    options = {"icc_profile": given.pop("profile"), "dpi": given.pop("dpi")}
    if given["exif"] and len(given["exif"]) < MOST_IN_JPEG:
        options["exif"] = EXIF_START + given.pop("exif")
    if given["xmp"] and len(given["xmp"]) < MOST_IN_JPEG:
        options["xmp"] = given.pop("xmp")
    if given["iptc"] and len(given["iptc"]) < MOST_IN_JPEG:
        options["extra"] = _photoshop_segment(given.pop("iptc"))
    comment = given["texts"].get("Comment", "").encode()
    if comment and len(comment) < MOST_IN_JPEG:
        options["comment"] = comment
        del given["texts"]["Comment"]
    return _present(options)


def _webp(given: dict) -> dict:
    return _present({"exif": given.pop("exif"), "xmp": given.pop("xmp"), "icc_profile": given.pop("profile")})


def _tiff(given: dict) -> dict:
    exif = Image.Exif()
    if block := given.pop("exif"):
        exif.load(EXIF_START + block)
        kept_as_found(exif)
    if xmp := given.pop("xmp"):
        exif[XMP_OF_TIFF] = xmp
    if iptc := given.pop("iptc"):
        exif[IPTC_OF_TIFF] = iptc
    options = {"exif": exif, "icc_profile": given.pop("profile"), "dpi": given.pop("dpi")}
    if {IFD.Exif, IFD.GPSInfo} & set(exif):  # Pillow compresses with libtiff, which cannot write these directories
        options["compression"] = "raw"
    return _present(options)


def _bmp(given: dict) -> dict:
    return _present({"dpi": given.pop("dpi")})


def _present(options: dict) -> dict:
    return {name: value for name, value in options.items() if value}


def _photoshop_segment(iptc: bytes) -> bytes:
    """The JPEG segment (APP13) that holds IPTC records."""
    resource = b"8BIM" + struct.pack(">HHI", IPTC_OF_PHOTOSHOP, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def resize_alpha(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize alpha with the filter that resizes the picture.

    Args:
        alpha: [1, H, W], u8 or 16-bit words (int16).
        size: (height, width) in pixels.
    """
    if alpha.dtype == torch.uint8:
        return resize_8_bit(alpha, size, divisor=1).round().clamp(0, 255).to(alpha.dtype)
    numbers = (alpha.to(torch.int32) & 65535).float()
    return resize_8_bit(numbers, size, divisor=1).round().clamp(0, 65535).to(torch.int32).to(torch.int16)
