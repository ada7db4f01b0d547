"""GroupNorm of every frame alone, with SiLU after it: the reference path on every device."""

from torch import Tensor
from torch.nn import functional as F


def frame_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-6, silu: bool = False
) -> Tensor:
    """Normalise each group of channels over one frame's pixels; statistics never mix frames.

    Args:
        x: [B, C, T, H, W], any float dtype, which the result keeps.
        weight, bias: [C].
        silu: apply x * sigmoid(x) to the result.
    """
    frames = x.transpose(1, 2)  # B T C H W
    y = F.group_norm(frames.flatten(0, 1), groups, weight, bias, eps)
    y = F.silu(y) if silu else y
    return y.unflatten(0, frames.shape[:2]).transpose(1, 2)
