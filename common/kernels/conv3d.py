"""3-D convolution that calls oneDNN directly on CPUs.

There `F.conv3d` loops over matrix products, which is ten times slower than oneDNN for the shapes of the tiny VAE.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`F.conv3d` without dilation or groups: [B, C, T, H, W], [O, C, kt, kh, kw], [O] -> [B, O, T', H', W']."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.enabled and x.numel():
        return torch.mkldnn_convolution(x, weight, bias, list(padding), list(stride), [1, 1, 1], 1)
    return F.conv3d(x, weight, bias, stride, padding)
