"""A weight that is kept as its file has it until it is needed: a few bits an entry, and how to make numbers of them."""

from collections.abc import Callable

import torch
from torch import Tensor


class StoredWeight:
    """One quantised weight of a checkpoint. Nothing is computed before `dense`, so a file stays memory-mapped.

    Args:
        shape: of the weight, not of its bytes.
        read: makes the float32 tensor of that shape on a device.
    """

    dtype = torch.float32  # of what `dense` returns

    def __init__(self, shape: tuple[int, ...], read: Callable[[torch.device | str], Tensor]) -> None:
        self.shape = torch.Size(shape)
        self._read = read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """True: what comes out are real numbers, however they are stored."""
        return True

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """The weight's values, float32, on the device."""
        values = self._read(device)
        assert values.shape == self.shape, (values.shape, self.shape)
        return values


def dense(weight: Tensor | StoredWeight, device: torch.device | str = "cpu") -> Tensor:
    """A weight as a plain tensor on the device; one that is plain already keeps its dtype."""
    return weight.dense(device) if isinstance(weight, StoredWeight) else weight.to(device)
