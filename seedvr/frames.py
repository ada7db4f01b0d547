"""Converts a caller's frames (arrays, tensors, pictures, lists of these) to tensors, and results back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seedvr.errors import InputError

CHANNELS = 3
FORMS = (
    "arrays or tensors [T, H, W, 3] or [T, 3, H, W] (one frame without T), u8 in 0..255 or floats in 0..1, "
    "or PIL pictures"
)


@dataclass(frozen=True)
class Form:
    """The form of a caller's frames, in which results are returned."""

    kind: str  # "numpy", "torch" or "pil"
    last: bool = True  # the channels are the last dimension
    real: bool = False  # floats in [0, 1], else u8
    single: bool = False  # a single frame, without the dimension T
    dtype: Any = None  # dtype of floats
    device: Any = "cpu"  # device of tensors

    @property
    def bits(self) -> Literal[8, 16]:
        """Bits per value of the frames that `give` takes: 16 for floats, else 8."""
        return 16 if self.real else 8

    def give(self, frames: Tensor) -> Any:
        """Convert restored frames [T, 3, h, w], 16-bit words (int16) for floats and else u8, to this form.

        Pictures are returned as a list, and a single frame without the dimension T.
        """
        if self.kind == "pil":
            pictures = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).contiguous().numpy()]
            return pictures[0] if self.single else pictures
        if self.last:
            frames = frames.permute(0, 2, 3, 1).contiguous()
        if self.real:
            frames = (frames.to(torch.int32) & 65535).float() / 65535
        result: Any = frames.numpy() if self.kind == "numpy" else frames.to(self.device)
        if self.real:
            result = result.astype(self.dtype) if self.kind == "numpy" else result.to(self.dtype)
        return result[0] if self.single else result


def take(frames: Any) -> tuple[Tensor, Form]:
    """Convert frames in any supported form to a tensor. Returns it with the form.

    The tensor is [T, 3, H, W] on the CPU, u8 in 0..255 or float32 in 0..1.

    Raises:
        InputError: the form is not supported, there are no frames, or values are out of range.
    """
    if isinstance(frames, Image.Image):
        pixels, form = from_pictures([frames]), Form("pil", single=True)
    elif isinstance(frames, (list, tuple)) and frames and all(isinstance(frame, Image.Image) for frame in frames):
        pixels, form = from_pictures(frames), Form("pil")
    elif isinstance(frames, (list, tuple)) and frames and isinstance(frames[0], (np.ndarray, Tensor)):
        return take(together(frames))
    elif isinstance(frames, np.ndarray):
        pixels, form = from_dense(frames, "numpy", lambda: torch.from_numpy(np.ascontiguousarray(frames)))
    elif isinstance(frames, Tensor):
        pixels, form = from_dense(frames, "torch", lambda: frames.detach().cpu())
    else:
        raise InputError(f"frames of type {type(frames).__name__} are not known; give {FORMS}, or the path of a file")
    if pixels.shape[0] == 0 or min(pixels.shape[-2:]) == 0:
        raise InputError(f"there are no frames in {tuple(pixels.shape)}; at least one frame of one pixel is needed")
    return pixels, form


def together(frames: Iterable[Any]) -> Any:
    """Stack single frames into one array or tensor."""
    frames = list(frames)
    try:
        return torch.stack(frames) if isinstance(frames[0], Tensor) else np.stack(frames)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"the frames of a list must have one type and one size: {error}") from error


def from_pictures(pictures: Iterable[Image.Image]) -> Tensor:
    """Convert PIL pictures of one size to u8 [T, 3, H, W]. Grey and palettes become RGB; transparency is dropped."""
    pictures = list(pictures)
    if len({picture.size for picture in pictures}) > 1:
        raise InputError("the pictures of one clip must have one size; restore pictures of different sizes one by one")
    dense = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(dense).permute(0, 3, 1, 2)


def from_dense(frames: Any, kind: str, read: Callable[[], Tensor]) -> tuple[Tensor, Form]:
    """Convert an array or tensor to pixels [T, 3, H, W]. Returns them with the form."""
    shape, single = tuple(frames.shape), frames.ndim == CHANNELS
    if frames.ndim not in (3, 4) or CHANNELS not in (shape[-1], shape[-3]):
        raise InputError(f"frames of shape {shape} are not known; give {FORMS}")
    last = shape[-1] == CHANNELS  # [T, 3, H, 3] reads as channels last
    pixels = read()
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise InputError(f"frames of {frames.dtype} are not known; give u8 in 0..255 or floats in 0..1")
    real = pixels.is_floating_point()
    if real:
        pixels = in_range(pixels.float())
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    pixels = pixels.permute(0, 3, 1, 2) if last else pixels
    return pixels, Form(kind, last, real, single, frames.dtype if real else None, getattr(frames, "device", "cpu"))


def in_range(pixels: Tensor) -> Tensor:
    """Return the floats if they are in [0, 1], or a little outside as after filters; else raise InputError."""
    if pixels.numel() == 0:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -0.5 and high <= 1.5):  # also for NaN
        raise InputError(f"floats must lie in 0..1, and these lie in {low:g}..{high:g}; divide 0..255 by 255")
    return pixels.clamp(0, 1)
