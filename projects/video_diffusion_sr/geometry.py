"""Computes the sizes of the result and of the networks' pictures from the size of a file, and resizes frames."""

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
    """Converts the frames of a file to the size of the result and to the size of the networks' pictures.

    Args:
        res: (height, width) in pixels whose product is the area of the result; the aspect ratio is the file's.
        multiple: the networks need sides that are multiples of this: spatial compression times patch size.
        fit: "pad" mirrors the border and crops the result, which has exactly the resized size then; "crop" takes the
            centre, as the reference does, which removes up to `multiple - 1` rows and columns.
        size: another specification of the size, which replaces `res`; None: use `res`.
    """

    res: tuple[int, int]
    multiple: int
    fit: Fit = "pad"
    size: OutputSize | None = None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing, before any crop, of frames of this size."""
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
        """(height, width) of the networks' pictures for frames of this size: the result's, padded to `multiple`."""
        height, width = self.output_size(height, width)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def to_output(self, pixels: Tensor, device: torch.device | str) -> Tensor:
        """Resize a frame [3, H, W] to the size of the result: float32 [3, h, w] in [-1, 1].

        The result is compared with it.

        Args:
            pixels: uint8, or float32 in [0, 1].
        """
        size = self.resized(*pixels.shape[-2:])
        frame = resize_8_bit(pixels.to(device), size, 255 if pixels.dtype == torch.uint8 else 1).clamp(0, 1)
        if self.fit == "crop":
            frame = DivisibleCrop(self.multiple)(frame)
        return unit_to_model(frame)

    def alpha_to_output(self, alpha: Tensor) -> Tensor:
        """Resize alpha [T, 1, H, W] in [0, 1] to [T, 1, h, w] in the same way as frames."""
        size = self.resized(*alpha.shape[-2:])
        resized = torch.stack([resize_8_bit(plane, size, 1).clamp(0, 1) for plane in alpha])
        return DivisibleCrop(self.multiple)(resized) if self.fit == "crop" else resized

    def to_network(self, frame: Tensor) -> Tensor:
        """Pad [3, h, w] to [3, h', w'] with sides that are multiples of `multiple`."""
        return pad_to_multiple(frame, self.multiple)
