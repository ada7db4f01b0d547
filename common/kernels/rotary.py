"""Rotation of feature pairs: the reference path on every device."""

import torch
from torch import Tensor


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2F features of every head; the rest pass.

    Args:
        x: [n, H, D] any float dtype.
        cos, sin: [n, F] float32, one column for each pair of adjacent features.
    Returns:
        [n, H, D] in the dtype of x; the rotation itself is float32.
    """
    rotated = 2 * cos.shape[-1]
    first, second = x[..., :rotated].float().unflatten(-1, (-1, 2)).unbind(-1)  # n H F each
    cos, sin = cos[:, None], sin[:, None]
    pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([pairs.flatten(-2).to(x.dtype), x[..., rotated:]], dim=-1)
