"""A picture in the format of its suffix, with its transparency where the format has one."""

from fractions import Fraction
from pathlib import Path

from PIL import Image
from torch import Tensor

from common.logger import get_logger
from data.image.transforms.na_resize import resize_8_bit
from data.media.errors import shown
from data.media.info import MediaInfo
from data.media.names import WRITABLE_IMAGES
from data.media.whole import MediaWriter

logger = get_logger(__name__)

OPTIONS = {
    "PNG": {"compress_level": 3},  # three times as fast as zlib's 6, 2% larger: docs/decisions/0004
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95, "method": 4},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}
WITH_ALPHA = ("PNG", "WEBP", "TIFF")


class ImageWriter(MediaWriter):
    """Takes exactly one frame.

    Args:
        path: the suffix names the format.
        info: its `alpha`, u8 [1, H, W], is enlarged to the size of the frame.
    """

    def __init__(self, path: Path, info: MediaInfo) -> None:
        super().__init__(path)
        self.format = WRITABLE_IMAGES[path.suffix.lower()]
        self.alpha = info.alpha
        if self.alpha is not None and self.format not in WITH_ALPHA:
            logger.warning("%s: %s has no transparency; it is left out", shown(path), self.format)
            self.alpha = None

    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (pixels,)

    def _write_one(self, planes: tuple[Tensor, ...], time: Fraction) -> None:
        if self.frames:
            raise ValueError(f"{shown(self.path)}: a picture holds one frame; write clips to .mp4")
        (picture,) = planes
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        if self.alpha is not None:
            alpha = resize_alpha(self.alpha, tuple(picture.shape[-2:]))
            image.putalpha(Image.fromarray(alpha[0].numpy()))
        image.save(self.temporary, format=self.format, **OPTIONS[self.format])

    def _finish(self) -> None:
        """The one frame is the file."""

    def _release(self) -> None:
        """Nothing stays open."""


def resize_alpha(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    """u8 [1, H, W] -> u8 [1, h, w] with the filter that resizes the picture; size is (height, width)."""
    return resize_8_bit(alpha, size, divisor=1).round().clamp(0, 255).to(alpha.dtype)
