"""How large is the picture after resizing, and with which filter? The native-aspect resize of the reference."""

from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE_PIXELS, BLOCK_PIXELS = 1 << 24, 1 << 22  # 16 megapixels, of which a float copy takes 200 MB


class NaResize:
    """Resize frames to a given area, or a given short side, keeping the aspect ratio.

    Both directions use antialiased bicubic with `align_corners=False`. Bicubic overshoots: values may leave [0, 1]
    by a little, and the caller clamps (the recorded numbers are taken before clamping).

    Args:
        resolution: square root of the wanted area (mode "area"), or the wanted short side (mode "side"), in pixels.
        mode: "area" or "side".
        downsample_only: leave pictures that are already small enough as they are.
    """

    def __init__(self, resolution: int | float, mode: Literal["area", "side"], downsample_only: bool = False) -> None:
        if mode not in ("area", "side"):
            raise ValueError(f"NaResize knows the modes 'area' and 'side', not {mode!r}")
        if not resolution > 0:
            raise ValueError(f"NaResize needs a resolution above zero, got {resolution}")
        self.resolution = resolution
        self.mode = mode
        self.downsample_only = downsample_only

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels after resizing a picture of `height` x `width`; at least one pixel each."""
        if self.mode == "area":
            scale = sqrt(self.resolution**2 / (height * width))
        else:
            scale = self.resolution / min(height, width)
        if self.downsample_only:
            scale = min(scale, 1.0)
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize every frame: floats [..., C, H, W] in [0, 1] -> [..., C, h, w], unclamped."""
        if not torch.is_floating_point(frames):
            raise ValueError(
                f"NaResize works on floats in [0, 1], got {frames.dtype}; divide 8-bit pixels by 255 first"
            )
        size = self.output_size(*frames.shape[-2:])
        if size == tuple(frames.shape[-2:]):
            return frames
        return bicubic(frames, size)


def resize_8_bit(pixels: Tensor, size: tuple[int, int], divisor: int = 255) -> Tensor:
    """[C, H, W] of u8, or of floats -> float32 [C, h, w]: the antialiased bicubic of `pixels / divisor`, unclamped.

    A large picture is resized in blocks of rows, with the same numbers: the filter runs along the rows first, and
    then along the columns. Beside the pixels this needs the resized rows, 4 C H w bytes, and a block.
    """
    height, width = pixels.shape[-2:]
    if size == (height, width):
        return pixels / divisor
    if height * width <= LARGE_PIXELS:
        return bicubic(pixels / divisor, size)
    blocks = pixels.split(max(BLOCK_PIXELS // width, 1), dim=-2)
    rows = [bicubic(block / divisor, (block.shape[-2], size[1])) for block in blocks]  # C rows w
    return bicubic(torch.cat(rows, dim=-2), size)


def bicubic_8_bit(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [..., C, H, W] -> uint8 [..., C, h, w] of (h, w) = size, see `bicubic`; rounded and clipped."""
    return bicubic(frames.float(), size).round().clamp(0, 255).to(torch.uint8)


def bicubic(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Floats [..., C, H, W] -> [..., C, h, w] of (h, w) = size: antialiased, pixel centres kept, unclamped."""
    flat = frames.reshape(-1, *frames.shape[-3:])  # n C H W
    flat = F.interpolate(flat, size=size, mode="bicubic", antialias=True, align_corners=False)
    return flat.reshape(*frames.shape[:-2], *size)
