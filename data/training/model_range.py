"""Converts stored pixels to the inputs of the networks, on any device."""

import torch

from data.image.transforms.na_resize import bicubic
from data.pixel_range import uint8_to_model, unit_to_model


def to_model_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [..., T, H, W, 3] to float32 [..., 3, T, H, W] in [-1, 1]."""
    return uint8_to_model(pixels.movedim(-1, -4))


def upsample_to_model_range(lq: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Enlarge a low-quality clip to the size of its ground truth, as inference resizes its input.

    The interpolation is bicubic with antialiasing, on floats in [0, 1]; the result is clamped to [0, 1] and scaled.

    Args:
        lq: uint8 [..., T, h, w, 3].
        height, width: pixels of the ground truth.

    Returns:
        float32 [..., 3, T, height, width] in [-1, 1].
    """
    frames = lq.movedim(-1, -3).float() / 255  # ... T 3 h w
    return unit_to_model(bicubic(frames, (height, width)).clamp(0, 1)).movedim(-3, -4)
