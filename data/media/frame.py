"""One frame of a clip: holds the decoder's planes, and converts them to RGB on request.

A decoded frame is usually 4:2:0, which has half the bytes of RGB. So frames are kept and copied to a device as planes,
and converted to RGB there; the result has the same bits as on the CPU (`data.yuv`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from data.media.orientation import UPRIGHT, Orientation
from data.yuv.fixed import samples
from data.yuv.frames import stacked
from data.yuv.layout import YuvLayout
from data.yuv.to_rgb import to_rgb

MOST = 65535  # largest 16-bit word


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, and the time at which it is shown."""

    # Read-only tensors on the CPU. Of a video: views of the decoder's memory, [1, H, W] and [1, h, w], u8 or int16, see
    # `layout`. Of a picture: RGB [1, 3, H, W], u8, 16-bit words (int16) or float32 in [0, 1]; and, if it has alpha,
    # alpha [1, 1, H, W], u8 or 16-bit words.
    planes: tuple[Tensor, ...]
    time: Fraction  # seconds since the clip's zero; strictly increasing within a clip
    layout: YuvLayout | None = None  # layout of the planes; None for the RGB of a picture
    orientation: Orientation = UPRIGHT  # how displayed pixels are made from stored ones
    begins_shot: bool = False  # whether the frame is the first after a cut; readers leave it False

    @classmethod
    def of_rgb(cls, pixels: Tensor, time: Fraction, alpha: Tensor | None = None) -> Self:
        """Make a frame, without a copy, from RGB [3, H, W] and alpha [1, H, W] as displayed; dtypes as in `planes`."""
        return cls((pixels[None],) if alpha is None else (pixels[None], alpha[None]), time)

    @property
    def pixels(self) -> Tensor:
        """u8 [3, H, W]: RGB as displayed, in the file's primaries and transfer curve, full range.

        More than 8 bits are rounded. Every access to a video's frame converts it again.
        """
        return rgb_of([self])[0]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that the planes occupy, including the padding of rows."""
        storages = [plane.untyped_storage() for plane in self.planes]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    @property
    def transparent(self) -> bool:
        """Whether the last plane is alpha."""
        return self.layout.alpha if self.layout is not None else len(self.planes) > 1


def rgb_of(frames: Sequence[Frame], device: torch.device | str = "cpu", dtype: torch.dtype = torch.uint8) -> Tensor:
    """Convert frames to RGB on a device.

    The planes are copied to the device and converted there. Consecutive frames of one layout, orientation and size are
    copied and converted together.

    Args:
        frames: at least one, all of one displayed size.
        device: where the result is.
        dtype: torch.uint8, or torch.float32, which keeps the precision of samples of more than 8 bits.

    Returns:
        [T, 3, H, W] as displayed: u8, the same bits as stacking `pixels`, or float32 in [0, 1]. On CUDA the copies are
        asynchronous, in the current stream, so they may not be complete yet.

    Raises:
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("there is no frame to convert; give at least one")
    device = torch.device(device)
    alike = groupby(frames, lambda frame: (frame.layout, frame.orientation, frame.planes[0].shape))
    groups = [_together(list(group), device, dtype) for _, group in alike]
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def alpha_of(frames: Sequence[Frame], device: torch.device | str = "cpu") -> Tensor | None:
    """The alpha of frames on a device, float32 [T, 1, H, W] in [0, 1] as displayed, 1 opaque; None if no frame has any.

    Frames without alpha are opaque.
    """
    if not any(frame.transparent for frame in frames):
        return None
    return torch.stack([_alpha(frame, torch.device(device)) for frame in frames])


def _alpha(frame: Frame, device: torch.device) -> Tensor:
    if not frame.transparent:
        return frame.orientation.apply(torch.ones(1, *frame.planes[0].shape[-2:], device=device))
    plane = frame.planes[-1].to(device)
    if frame.layout is None:
        return _as_floats(plane)[0]
    numbers = samples(plane, frame.layout) if plane.dtype != torch.uint8 else plane
    return frame.orientation.apply(numbers.to(torch.float32) / (2**frame.layout.depth - 1))


def _together(frames: list[Frame], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[T, 3, H, W] of frames of one layout, orientation and size."""
    first = frames[0]
    colours = 1 if first.layout is None else first.layout.colour_planes
    planes = first.planes[:colours]
    if len(frames) > 1 or device.type == "cuda":
        planes = stacked([frame.planes[:colours] for frame in frames], pin_memory=device.type == "cuda")
    planes = tuple(plane.to(device, non_blocking=True) for plane in planes)
    if first.layout is not None:
        return first.orientation.apply(to_rgb(planes, replace(first.layout, alpha=False), dtype))
    return first.orientation.apply(planes[0] if planes[0].dtype == dtype else _converted(planes[0], dtype))


def _converted(rgb: Tensor, dtype: torch.dtype) -> Tensor:
    """RGB of a picture as u8 or float32 in [0, 1]."""
    if dtype == torch.float32:
        return _as_floats(rgb)
    made = torch.empty(rgb.shape, dtype=torch.uint8, device=rgb.device)
    for channel in range(rgb.shape[1]):  # one after the other, as pictures can be large
        made[:, channel] = _as_floats(rgb[:, channel]).mul(255).round_()
    return made


def _as_floats(values: Tensor) -> Tensor:
    if values.dtype == torch.float32:
        return values
    if values.dtype == torch.uint8:
        return values.to(torch.float32).mul_(1 / 255)
    return values.to(torch.float32).remainder_(MOST + 1).mul_(1 / MOST)  # negative numbers are those above 32767
