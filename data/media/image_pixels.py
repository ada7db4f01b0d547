"""Converts the pixels of a Pillow image to sRGB, in blocks of rows, so that the whole image is not copied.

Palettes, gray and CMYK become RGB, and the picture is turned upright. Pictures of 8 bits with an ICC profile are
converted to sRGB. 16-bit pictures keep their 16 bits, of which Pillow would drop the low ones. LittleCMS in Pillow
converts 8 bits only, so their values are not converted, and the result keeps their profile. Besides the Pillow image,
the memory holds the result and one block.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from data.media.errors import reason
from data.media.png_colour import png_colour

BLOCK_PIXELS = 1 << 20


class SrgbConverter:
    """Converts blocks of one image, of any Pillow mode, to sRGB.

    Args:
        image: the decoded image; all blocks have its mode, palette and ICC profile.
        path: its file, in which other colour information has precedence over the gAMA chunk of a PNG.
        deep: whether blocks have 16 bits per sample, which are kept.

    Attributes:
        problem: why the embedded profile is ignored; None if it is used or there is none.
        kept_profile: the ICC profile of a 16-bit image, which also holds for the result; None otherwise.
    """

    def __init__(self, image: Image.Image, path: Path | None = None, deep: bool = False) -> None:
        self.problem: str | None = None
        self.kept_profile: bytes | None = None
        self.png_colour = png_colour(image, path)
        self.float_scale = _float_scale(image) if image.mode == "F" else 1
        self.transform = None
        if profile := image.info.get("icc_profile"):
            mode = self._plain(image.crop((0, 0, 1, 1)))[0].mode
            try:
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                if deep:
                    self.kept_profile = profile
                    return
                self.transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
            except Exception as error:  # the pixels can be used without a damaged profile
                self.problem = f"colour profile ignored ({reason(error)})"

    def __call__(self, strip: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        """Convert a block of the image: (u8 [rows, W, 3] sRGB, u8 [rows, W] alpha or None)."""
        image, alpha = self._plain(strip)
        if self.png_colour is not None and not strip.mode.startswith("I"):
            return self.png_colour.converted(np.asarray(image.convert("RGB")), 255), alpha
        if self.transform is not None:
            image = ImageCms.applyTransform(image, self.transform) or image  # None where it works in place
        return np.asarray(image.convert("RGB")), alpha

    def deep(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Convert 16-bit values [rows, W] or [rows, W, 3 or 4]: (u16 [rows, W, 3], u16 [rows, W] alpha or None)."""
        alpha = values[..., 3].astype(np.uint16) if values.ndim == 3 and values.shape[2] == 4 else None
        colours = values if values.ndim == 2 else values[..., :3]
        if self.png_colour is not None:
            colours = self.png_colour.converted(colours, 65535)
        colours = colours.astype(np.uint16)
        return colours[..., None].repeat(3, 2) if colours.ndim == 2 else colours, alpha

    def _plain(self, image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
        """(the image in mode L, RGB, CMYK or LAB, its alpha, u8 [rows, W], or None)."""
        alpha = None
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
            alpha = np.asarray(image.getchannel("A"))
            image = image.convert(image.mode[:-1])
        if image.mode.startswith("I"):
            values = gray_words(image)
            converted = _rounded(values if self.png_colour is None else self.png_colour.converted(values, 65535))
            image = Image.fromarray(converted)
        elif image.mode == "F":
            values = np.nan_to_num(np.asarray(image)) * self.float_scale
            image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
        if image.mode == "1":
            image = image.convert("L")
        elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
            image = image.convert("RGB")
        return image, alpha


def to_srgb(
    image: Image.Image,
    convert: SrgbConverter,
    orientation: int = 1,
    *,
    deep: bool = False,
    low: Image.Image | None = None,
    words: np.ndarray | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convert an image to sRGB, as displayed.

    Args:
        image: the decoded image, as stored.
        convert: the converter, made from this image.
        orientation: EXIF orientation, 1 to 8.
        deep: whether the image has 16 bits per sample, as the result then has.
        low: the low bytes of 16-bit values whose high bytes are in `image`, in the same mode; None: there are none.
        words: the 16-bit values, [H, W] or [H, W, 3 or 4], if Pillow has only 8 bits of them; None otherwise.

    Returns:
        (pixels [3, H, W], alpha [1, H, W], or None if every pixel is opaque): u8, or 16-bit words (int16).
    """
    width, height = image.size
    shape, most = (width, height) if orientation >= 5 else (height, width), 65535 if deep else 255
    pixels, alpha = np.empty((3, *shape), np.uint16 if deep else np.uint8), None
    for top, bottom in row_blocks_of(height, width):
        box = (0, top, width, bottom)
        strip = image.crop(box)
        if words is not None:
            colours, opaque = convert.deep(words[top:bottom])
        elif low is not None:
            colours, opaque = convert.deep(np.asarray(strip).astype(np.uint32) * 256 + np.asarray(low.crop(box)))
        elif deep:
            colours, opaque = convert.deep(gray_words(strip))
        else:
            colours, opaque = convert(strip)
        as_stored(pixels, orientation)[:, top:bottom] = colours.transpose(2, 0, 1)
        if opaque is not None:
            alpha = np.full((1, *shape), most, pixels.dtype) if alpha is None else alpha
            as_stored(alpha, orientation)[0, top:bottom] = opaque
    if alpha is None or alpha.min(initial=most) == most:
        return _tensor(pixels), None
    return _tensor(pixels), _tensor(alpha)


def gray_words(image: Image.Image) -> np.ndarray:
    """The values of an image of 16-bit gray (Pillow's modes I and I;16): int64 [H, W] in 0..65535."""
    return np.asarray(image).astype(np.int64).clip(0, 65535)


def _tensor(values: np.ndarray) -> Tensor:
    """u8 as u8, u16 as int16 with the same bits; no copy."""
    return torch.from_numpy(values if values.dtype == np.uint8 else values.view(np.int16))


def as_stored(displayed: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an array [..., H, W] in display order that is indexed in the file's order of rows and columns.

    Args:
        orientation: EXIF orientation, 1 to 8.
    """
    if orientation in (2, 3, 6, 7):  # left and right of the displayed picture are exchanged
        displayed = displayed[..., ::-1]
    if orientation in (3, 4, 7, 8):
        displayed = displayed[..., ::-1, :]
    return displayed.swapaxes(-2, -1) if orientation >= 5 else displayed


def over_white(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Composite u8 pixels [3, H, W] with u8 alpha [1, H, W] over white: u8 [3, H, W], rounded to the nearest."""
    result = torch.empty_like(pixels)
    for top, bottom in row_blocks_of(*pixels.shape[-2:]):
        laid = over_white_pixels(pixels[:, top:bottom].numpy(), alpha[:, top:bottom].numpy())
        result[:, top:bottom] = torch.from_numpy(laid)
    return result


def over_white_pixels(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """As `over_white`, for u8 arrays of any shapes that broadcast."""
    opaque = alpha.astype(np.int32)
    sum_255 = pixels * opaque + 255 * (255 - opaque)
    return ((2 * sum_255 + 255) // 510).astype(np.uint8)


def fill_hidden(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Fill pixels of alpha 0 from averages of visible ones over growing areas.

    Without this, enlarging would mix hidden colours into the visible edges.

    Args:
        pixels: [3, H, W], u8, 16-bit words (int16) or floats in [0, 1].
        alpha: [1, H, W]; pixels of other values than 0 are visible.

    Returns:
        The shape and dtype of `pixels`; `pixels` itself if all pixels are visible, or none.
    """
    visible = alpha != 0
    if bool(visible.all()) or not bool(visible.any()):
        return pixels
    del visible
    levels = [_halved(pixels, alpha)]
    while max(levels[-1][1].shape[-2:]) > 1 and not bool((levels[-1][1] > 0).all()):
        colour, weight = (avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1])
        levels.append((colour, weight))
    colour = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    while len(levels) > 1:
        levels.pop()
        total, weight = levels[-1]
        coarse = interpolate(colour, size=total.shape[-2:], mode="bilinear", align_corners=False)
        colour = torch.where(weight > 0, total / weight.clamp(min=1e-6), coarse)
    levels.clear()
    result = torch.empty_like(pixels)
    for top, bottom in row_blocks_of(*pixels.shape[-2:]):
        coarse = _enlarged_rows(colour, top, bottom, (pixels.shape[-2], pixels.shape[-1]))
        if pixels.dtype == torch.uint8:
            coarse = coarse.round().clamp(0, 255).to(torch.uint8)
        elif pixels.dtype == torch.int16:
            coarse = coarse.round().clamp(0, 65535).to(torch.int32).to(torch.int16)
        result[:, top:bottom] = torch.where(alpha[:, top:bottom] != 0, pixels[:, top:bottom], coarse)
    return result


def row_blocks_of(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first row, end) of blocks of about 2^20 pixels; all blocks but the last have an even number of rows."""
    rows = max(BLOCK_PIXELS // max(width, 1) // 2 * 2, 2)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _halved(pixels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 averages, float32: of colours times visibility [1, 3, h, w], and of visibility (0 or 1) [1, 1, h, w]."""
    totals, weights = [], []
    for top, bottom in row_blocks_of(*pixels.shape[-2:]):
        weight = (alpha[:, top:bottom] != 0).float()[None]  # 1 1 H W
        totals.append(avg_pool2d(_numbers(pixels[None, :, top:bottom]) * weight, 2, ceil_mode=True))
        weights.append(avg_pool2d(weight, 2, ceil_mode=True))
    return torch.cat(totals, dim=-2), torch.cat(weights, dim=-2)


def _numbers(pixels: Tensor) -> Tensor:
    """Float32 of u8, of floats, or of 16-bit words in int16, whose negative numbers are those above 32767."""
    return pixels.float().remainder_(65536) if pixels.dtype == torch.int16 else pixels.float()


def _enlarged_rows(coarse: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Rows `top` to `bottom - 1` of `interpolate(coarse, size, mode="bilinear")`: [1, 3, h, w] -> [3, rows, W]."""
    height = coarse.shape[-2]
    place = ((torch.arange(top, bottom, device=coarse.device) + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    above = place.floor().long().clamp(max=height - 1)
    below, fraction = (above + 1).clamp(max=height - 1), (place - above)[:, None]
    rows = torch.lerp(coarse[..., above, :], coarse[..., below, :], fraction)
    return interpolate(rows, size=(bottom - top, size[1]), mode="bilinear", align_corners=False)[0]


def _rounded(deep: np.ndarray) -> np.ndarray:
    """16-bit values as 8-bit values, rounded."""
    return ((deep + 128) // 257).astype(np.uint8)


def _float_scale(image: Image.Image) -> int:
    """The factor from float pixels to 0..255: 255 if no value is above 1, otherwise 1."""
    width, height = image.size
    blocks = (np.nan_to_num(np.asarray(image.crop((0, a, width, b)))) for a, b in row_blocks_of(height, width))
    return 255 if max(block.max(initial=0) for block in blocks) <= 1 else 1
