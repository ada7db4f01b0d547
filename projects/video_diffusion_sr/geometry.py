"""From the size of the file to the size of the result, and to the size that the networks accept."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.image.transforms.divisible_crop import DivisibleCrop
from data.image.transforms.na_resize import resize_8_bit
from data.pixel_range import unit_to_model
from data.video.framing import pad_to_multiple
from projects.video_diffusion_sr.output_size import OutputSize

Fit = Literal["pad", "crop"]


@dataclass(frozen=True)
class Geometry:
    """How one file's frames become the networks' and back.

    The area res_h * res_w is what the user asks for, the aspect ratio stays the file's; or any other `OutputSize`.

    Args:
        res: asked (height, width) in pixels, an area.
        multiple: what the networks can divide, spatial compression times patch.
        fit: "pad" mirrors the border and cuts the result back, so it has exactly the resized size; "crop" takes the
            centre, as the reference does, and loses up to `multiple - 1` rows and columns.
        size: another way of asking for a size than `res`, which it replaces.
    """

    res: tuple[int, int]
    multiple: int
    fit: Fit = "pad"
    size: OutputSize | None = None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of frames of this size after resizing, before any crop."""
        return (self.size or OutputSize(area=self.res)).of(height, width)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for frames of this size."""
        h, w = self.resized(height, width)
        if self.fit == "crop":
            h, w = h - h % self.multiple, w - w % self.multiple
        if min(h, w) < 1:
            raise ValueError(f"{height}x{width} cropped to multiples of {self.multiple} leaves nothing; use --fit pad")
        return h, w

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that the networks get for frames of this size: the result's, padded to `multiple`."""
        height, width = self.output_size(height, width)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def to_output(self, pixels: Tensor, device: torch.device | str) -> Tensor:
        """One frame [3, H, W], u8 or float32 in [0, 1] -> float32 [3, h, w] in [-1, 1], resized: what the result is
        compared with."""
        size = self.resized(*pixels.shape[-2:])
        frame = resize_8_bit(pixels.to(device), size, 255 if pixels.dtype == torch.uint8 else 1).clamp(0, 1)
        if self.fit == "crop":
            frame = DivisibleCrop(self.multiple)(frame)
        return unit_to_model(frame)

    def alpha_to_output(self, alpha: Tensor) -> Tensor:
        """Transparency [T, 1, H, W] in [0, 1] -> [T, 1, h, w], as frames are resized."""
        size = self.resized(*alpha.shape[-2:])
        resized = torch.stack([resize_8_bit(plane, size, 1).clamp(0, 1) for plane in alpha])
        return DivisibleCrop(self.multiple)(resized) if self.fit == "crop" else resized

    def to_network(self, frame: Tensor) -> Tensor:
        """[3, h, w] -> [3, h', w'] with sides that the networks can divide."""
        return pad_to_multiple(frame, self.multiple)
