"""GroupNorm of each frame separately, optionally followed by SiLU: the reference on every device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def frame_group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-6,
    silu: bool = False,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Normalise each group of channels over the pixels of one frame; statistics never mix frames.

    Args:
        x: [B, C, T, H, W], any float dtype.
        weight, bias: [C].
        silu: apply x * sigmoid(x) to the result.
        gather: given if x is one row block of the frames: all-gathers a tensor over the blocks, [...] -> [blocks, ...].
            None: x is the whole frames.
    Returns:
        [B, C, T, H, W] in the dtype of x.
    """
    if gather is not None:
        y = _normed_with_others(x, groups, eps, gather) * weight[:, None, None, None] + bias[:, None, None, None]
        return F.silu(y) if silu else y
    frames = x.transpose(1, 2)  # B T C H W
    y = F.group_norm(frames.flatten(0, 1), groups, weight, bias, eps)
    y = F.silu(y) if silu else y
    return y.unflatten(0, frames.shape[:2]).transpose(1, 2)


def _normed_with_others(x: Tensor, groups: int, eps: float, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """(x - mean) / sqrt(variance + eps), whose statistics combine those of all blocks (Chan et al., 1979)."""
    grouped = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (groups, -1))  # B G c T H W
    variance, mean = torch.var_mean(grouped, (2, 4, 5), correction=0)  # B G T
    pixels = torch.full_like(mean, x.shape[3] * x.shape[4])
    means, variances, counts = gather(torch.stack([mean, variance, pixels])).unbind(1)  # blocks B G T each
    share = counts / counts.sum(0)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    mean, scale = (s[:, :, None, :, None, None] for s in (mean, (variance + eps).rsqrt()))
    return ((grouped - mean) * scale).flatten(1, 2).to(x.dtype)
