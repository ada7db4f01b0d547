"""From stored pixels to what the networks take, on any device."""

import torch
import torch.nn.functional as F


def to_model_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [..., T, H, W, 3] to float32 [..., 3, T, H, W] in [-1, 1]."""
    return pixels.movedim(-1, -4).float() / 127.5 - 1


def upsample_to_model_range(lq: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A low-quality clip at the size of its ground truth, resized as inference resizes its input.

    Bicubic with antialiasing on floats in [0, 1], clamped after, then to [-1, 1].

    Args:
        lq: uint8 [..., T, h, w, 3].
        height, width: pixels of the ground truth.

    Returns:
        float32 [..., 3, T, height, width] in [-1, 1].
    """
    frames = lq.movedim(-1, -3).float() / 255  # ... T 3 h w
    lead = frames.shape[:-3]
    large = F.interpolate(
        frames.flatten(0, -4), (height, width), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    return large.unflatten(0, lead).movedim(-3, -4) * 2 - 1
