"""What is one picture of a clip? What the decoder gave, and its RGB where somebody asks for it.

A decoder's frame is 4:2:0 as a rule, half the bytes of its RGB. So frames wait and cross to a device as planes, and
become RGB there, the same bits as on the CPU (`data.yuv`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from data.media.orientation import UPRIGHT, Orientation
from data.yuv.frames import stacked
from data.yuv.layout import YuvLayout
from data.yuv.to_rgb import to_rgb


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture and when it is shown.

    Attributes:
        planes: on the CPU, never to be written to. Of a clip: the decoder's own memory, [1, H, W] and [1, h, w], u8 or
            int16, as `layout` says. Of a picture: its RGB, one tensor u8 [1, 3, H, W].
        time: seconds since the clip's zero; strictly increasing within a clip.
        layout: what the planes mean; None for the RGB of a picture.
        orientation: how stored pixels become displayed ones.
        begins_shot: a cut lies before it; readers do not know.
    """

    planes: tuple[Tensor, ...]
    time: Fraction
    layout: YuvLayout | None = None
    orientation: Orientation = UPRIGHT
    begins_shot: bool = False

    @classmethod
    def of_rgb(cls, pixels: Tensor, time: Fraction) -> Self:
        """A frame of u8 [3, H, W], RGB as displayed; no copy."""
        return cls((pixels[None],), time)

    @property
    def pixels(self) -> Tensor:
        """u8 [3, H, W], RGB as displayed (sRGB or BT.709, full range); of a clip made anew by every call."""
        return rgb_of([self])[0]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that the planes keep, rows' padding included."""
        pieces = [plane.untyped_storage() for plane in self.planes]
        return sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())


def rgb_of(frames: Sequence[Frame], device: torch.device | str = "cpu", dtype: torch.dtype = torch.uint8) -> Tensor:
    """Frames as RGB on a device. Planes cross to it; frames of one layout and size cross and are converted together.

    Args:
        frames: at least one, all of one displayed size.
        dtype: torch.uint8, or torch.float32 for all that samples of more than 8 bits hold.

    Returns:
        [T, 3, H, W] as displayed: u8, the same bits as stacking `pixels`, or float32 in [0, 1]. A CUDA device may still
        be at work on it: the copies are asynchronous, in the current stream.
    """
    if not frames:
        raise ValueError("there is no frame to convert; give at least one")
    device = torch.device(device)
    alike = groupby(frames, lambda frame: (frame.layout, frame.orientation, frame.planes[0].shape))
    parts = [_together(list(group), device, dtype) for _, group in alike]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _together(frames: list[Frame], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[T, 3, H, W] of frames of one layout, orientation and size."""
    planes, first = frames[0].planes, frames[0]
    if len(frames) > 1 or device.type == "cuda":
        planes = stacked([frame.planes for frame in frames], pin_memory=device.type == "cuda")
    planes = [plane.to(device, non_blocking=True) for plane in planes]
    if first.layout is not None:
        return first.orientation.apply(to_rgb(planes, first.layout, dtype))
    rgb = planes[0] if dtype == torch.uint8 else planes[0].to(dtype).mul_(1 / 255)
    return first.orientation.apply(rgb)
