"""Rotary position embedding: the reference on every device (RoFormer, arXiv 2104.09864)."""

import torch
from torch import Tensor


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2F features of every head and leave the others unchanged.

    Args:
        x: [n, H, D], any float dtype.
        cos, sin: float32 [n, F], one column per pair of adjacent features.
    Returns:
        [n, H, D] in the dtype of x; the rotation is computed in float32.
    """
    rotated = 2 * cos.shape[-1]
    first, second = x[..., :rotated].float().unflatten(-1, (-1, 2)).unbind(-1)  # n H F each
    cos, sin = cos[:, None], sin[:, None]
    pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([pairs.flatten(-2).to(x.dtype), x[..., rotated:]], dim=-1)
