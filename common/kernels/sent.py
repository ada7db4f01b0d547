"""Tensors from the host to the device that computes."""

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`, without waiting for what a CUDA device computes now, as a copy from unpinned memory would."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
