"""Quantised weights that are kept as in their file until they are used."""

from collections.abc import Callable

import torch
from torch import Tensor


class StoredWeight:
    """One quantised weight of a checkpoint. `dense` computes its values; until then the file stays memory-mapped.

    Args:
        shape: the shape of the weight, not of its bytes.
        read: a function from a device to the float32 tensor of this shape.
    """

    dtype = torch.float32  # of what `dense` returns

    def __init__(self, shape: tuple[int, ...], read: Callable[[torch.device | str], Tensor]) -> None:
        self.shape = torch.Size(shape)
        self._read = read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """True, because the values are floats, however they are stored."""
        return True

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """Compute the weight's values: float32, on the device."""
        values = self._read(device)
        assert values.shape == self.shape, (values.shape, self.shape)
        return values


def dense(weight: Tensor | StoredWeight, device: torch.device | str = "cpu") -> Tensor:
    """Convert a weight to a plain tensor on the device; a tensor that is plain keeps its dtype."""
    return weight.dense(device) if isinstance(weight, StoredWeight) else weight.to(device)
