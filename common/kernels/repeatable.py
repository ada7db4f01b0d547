"""The same bits in every run: convolutions whose sums do not depend on the order in which threads finish."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable() -> Iterator[None]:
    """In this block cuDNN uses repeatable algorithms only, in all threads of the process.

    Without it, a transposed convolution of few channels may add with atomic operations, and a value of the result then
    differs by a rounding from run to run. This is for programs: a library leaves its host's setting alone.
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
