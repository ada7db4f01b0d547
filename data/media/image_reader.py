"""What does a picture, a GIF or an animated WebP show?

Pillow decodes; this file makes 8-bit sRGB of it: EXIF orientation applied, ICC profiles converted, 16-bit values
rounded (Pillow cuts them), palettes, gray and CMYK expanded. A picture's transparency is kept apart
(`MediaInfo.alpha`). An animation becomes a clip, which has no transparency: it is laid over white, the page that such
files are drawn for.
"""

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.logger import get_logger
from data.media.info import Frame, MediaError, MediaInfo, MediaReader

logger = get_logger(__name__)

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
SHORTEST_DELAY_MS, USUAL_DELAY_MS = (
    20,
    100,
)  # browsers play shorter delays, a leftover of old GIFs, at ten frames per second


class ImageReader(MediaReader):
    """One picture as a clip of one frame at time zero."""

    def __init__(self, path: Path) -> None:
        with open_image(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                logger.warning("%s: holds %d pictures; the first is used", path.name, image.n_frames)
            self._pixels, alpha = to_srgb(ImageOps.exif_transpose(_rounded(image, path)))
        _, height, width = self._pixels.shape
        self.info = MediaInfo(path, "image", width, height, alpha=alpha, frame_count_hint=1)

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(self._pixels.clone(), Fraction(0))


class AnimationReader(MediaReader):
    """The composed frames of an animation over white; every frame keeps its own duration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Delays stand between the frames in the file, so all frames are visited once; none is kept.
        with open_image(path) as image:
            delays = [_delay(_seek(image, index, path)) for index in range(image.n_frames)]
            width, height = image.size
        self._times = list(itertools.accumulate(delays, initial=Fraction(0)))
        self.info = MediaInfo(
            path,
            "animation",
            width,
            height,
            frame_rate=len(delays) / self._times[-1],
            variable_frame_rate=len(set(delays)) > 1,
            duration=self._times[-1],
            frame_count_hint=len(delays),
            time_base=Fraction(1, 1000),
        )

    def __iter__(self) -> Iterator[Frame]:
        with open_image(self.path) as image:
            for index, time in enumerate(self._times[:-1]):
                pixels, alpha = to_srgb(_seek(image, index, self.path), fill=False)
                yield Frame(pixels if alpha is None else over_white(pixels, alpha), time)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """A Pillow image; every way in which decoding fails becomes a MediaError with a reason."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise MediaError(f"{path.name}: not a picture that can be read, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{path.name}: more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; cut it up"
        ) from error
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged data
        raise MediaError(f"{path.name}: the picture is damaged ({error}); get a complete copy") from error


def is_animation(image: Image.Image) -> bool:
    """Several frames shown one after the other; the pages of a TIFF and the views of a phone's MPO are not."""
    return image.format in ANIMATED and getattr(image, "n_frames", 1) > 1


def to_srgb(image: Image.Image, fill: bool = True) -> tuple[Tensor, Tensor | None]:
    """(u8 [3, H, W] sRGB, u8 [1, H, W] alpha or None) of a picture of any Pillow mode.

    Args:
        image: the picture.
        fill: give invisible pixels the colours of visible neighbours, so that enlarging draws no fringe of hidden
            colours.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
        alpha = torch.from_numpy(np.array(image.getchannel("A")))[None]  # 1 H W
        image = image.convert(image.mode[:-1])
    image = _eight_bit(image)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = torch.from_numpy(np.array(_profile_to_srgb(image, profile).convert("RGB"))).permute(2, 0, 1).contiguous()
    if alpha is None or bool((alpha == 255).all()):
        return pixels, None
    return (fill_hidden(pixels, alpha) if fill else pixels), alpha


def over_white(pixels: Tensor, alpha: Tensor) -> Tensor:
    """u8 [3, H, W] and u8 [1, H, W] -> u8 [3, H, W] laid over white, rounded."""
    opaque = alpha.float() / 255
    return (pixels.float() * opaque + 255 * (1 - opaque)).round().to(torch.uint8)


def fill_hidden(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Colours for the pixels with alpha 0, from ever coarser averages of visible ones: u8 [3, H, W] -> u8 [3, H, W]."""
    weight = (alpha > 0).float()[None]  # 1 1 H W
    levels = [(pixels[None].float() * weight, weight)]
    while max(levels[-1][1].shape[-2:]) > 1 and not bool((levels[-1][1] > 0).all()):
        levels.append(tuple(torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1]))
    colour = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for total, weight in reversed(levels[:-1]):
        coarse = torch.nn.functional.interpolate(colour, size=total.shape[-2:], mode="bilinear", align_corners=False)
        colour = torch.where(weight > 0, total / weight.clamp(min=1e-6), coarse)
    return torch.where(alpha > 0, pixels, colour[0].round().clamp(0, 255).to(torch.uint8))


def _rounded(image: Image.Image, path: Path) -> Image.Image:
    """16-bit colour rounded to 8 bits; Pillow itself would cut the low byte, half a level darker on average."""
    sixteen = any(";16" in str(tile[3]) for tile in image.tile if tile[3]) and image.mode in ("RGB", "RGBA", "LA")
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if sixteen else None
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        image.load()
        return image
    eight = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    order = cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB
    rounded = Image.fromarray(cv2.cvtColor(eight, order))
    rounded.info = dict(image.info)
    rounded.getexif().update(image.getexif())
    return rounded


def _eight_bit(image: Image.Image) -> Image.Image:
    """Modes of one deep channel to "L"; all others pass."""
    if image.mode.startswith("I"):  # 16-bit gray, in 16- or 32-bit storage
        return Image.fromarray(((np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.max(initial=0) <= 1 else 1
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    return image


def _profile_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours of the embedded ICC profile as sRGB; a broken or mismatched profile is ignored with a line."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        logger.warning("colour profile ignored (%s)", error)
        return image


def _seek(image: Image.Image, index: int, path: Path) -> Image.Image:
    try:
        image.seek(index)
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise MediaError(f"{path.name}: only {index} of {image.n_frames} frames could be decoded ({error})") from error
    return image


def _delay(image: Image.Image) -> Fraction:
    """Seconds that the current frame is shown."""
    milliseconds = Fraction(image.info.get("duration") or 0).limit_denominator(1000)
    return (milliseconds if milliseconds >= SHORTEST_DELAY_MS else Fraction(USUAL_DELAY_MS)) / 1000
