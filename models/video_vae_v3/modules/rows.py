"""The exchange of rows between ranks that share a clip's pictures, and that of a single process.

Every share holds one block of consecutive rows of every frame, at every level. `common.distributed.row_parallel` has
the exchange between ranks. All verbs have gradients, as those of `models.nadit.exchange`.
"""

from typing import Protocol

from torch import Tensor


class RowExchange(Protocol):
    """The rows of a picture beyond this share's block, statistics of all blocks, and whole pictures.

    Attributes:
        shared: are there other blocks? Where there are none, convolutions pad the picture themselves.
        first, last: does this block begin, does it end the picture?
    """

    shared: bool
    first: bool
    last: bool

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """The row before this block and the row after it, [B, T, 1, W, C] packed, of every share's x [B, T, H, W, C].

        Args:
            above, below: which of them is wanted, the same on every share.
        Returns:
            None for a row that is not wanted or lies outside the picture.
        """

    def gather(self, part: Tensor) -> Tensor:
        """A tensor of the same shape from every share -> [shares, ...], in the order of the blocks."""

    def gather_pixels(self, x: Tensor) -> Tensor:
        """The pixels of this block, [N, rows * W, C], in their order -> those of the picture."""


class SharedClip(Protocol):
    """How a whole clip becomes this share's rows, and rows a whole clip.

    exchange: with the ranks that hold the other rows; None: this process holds all.
    """

    @property
    def exchange(self) -> RowExchange | None: ...

    def shard(self, x: Tensor, dim: int, scale: int = 1) -> Tensor:
        """This share's rows of whole pictures, along `dim`; `scale`: rows of x in a latent row."""

    def unshard(self, x: Tensor, scale: int = 1) -> Tensor:
        """This share's rows [any, local rows, ...] -> all rows, on every share; `scale` as for `shard`."""


class UnshardedRows:
    """The exchange of one process that holds all rows: nothing is exchanged."""

    shared, first, last = False, True, True

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[None, None]:
        return None, None

    def gather(self, part: Tensor) -> Tensor:
        return part[None]

    def gather_pixels(self, x: Tensor) -> Tensor:
        return x
