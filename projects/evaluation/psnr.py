"""The formula of PSNR, for tensors on any device."""

import torch
from torch import Tensor


def decibels(mean_squared_error: Tensor, data_range: float) -> Tensor:
    """PSNR in dB, 10 log10(data_range^2 / error), of any shape; infinite where the error is 0.

    Args:
        data_range: largest minus smallest possible value: 255 for 8 bits, 2 for [-1, 1].
    """
    return 10 * torch.log10(data_range**2 / mean_squared_error)
