"""The interface for splitting the rows of a clip's pictures between ranks, and its form for a single process.

Each rank holds one block of consecutive rows of every frame, at every level. `common.distributed.row_parallel`
implements the exchange between ranks. All methods but `surroundings` are differentiable.
"""

from typing import Protocol

from torch import Tensor


class RowExchange(Protocol):
    """Exchanges halo rows, statistics and pixels between the ranks that hold the row blocks of a picture.

    Attributes:
        shared: whether there are other blocks. If not, convolutions pad the picture themselves.
        first, last: whether this block is the first and whether it is the last of the picture.
    """

    shared: bool
    first: bool
    last: bool

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """The row above this block and the row below it, [B, T, 1, W, C] packed each, from the neighbouring ranks.

        Args:
            x: [B, T, H, W, C], the block of this rank.
            above, below: whether each row is requested; they must be equal on all ranks.
        Returns:
            (above, below), with None for a row that is not requested or lies outside the picture.
        """

    def gather(self, part: Tensor) -> Tensor:
        """All-gather a tensor that has the same shape on every rank: [...] -> [ranks, ...], in the order of blocks."""

    def surroundings(self, x: Tensor, part: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """`neighbours(x)` and `gather(part)` in one exchange: (above, below, parts). Latency is most of its cost.

        Only without gradients.
        """

    def gather_pixels(self, x: Tensor) -> Tensor:
        """All-gather the pixels of the picture, in their order: [N, local rows * W, C] -> [N, H * W, C]."""


class SharedClip(Protocol):
    """Splits a whole clip into this rank's rows, and gathers the whole clip again.

    exchange: the exchange with the ranks that hold other rows; None: this process holds all rows.
    """

    @property
    def exchange(self) -> RowExchange | None: ...

    def shard(self, x: Tensor, dim: int, scale: int = 1) -> Tensor:
        """This rank's rows of the whole x along dimension `dim`; `scale`: number of rows of x per latent row."""

    def unshard(self, x: Tensor, scale: int = 1) -> Tensor:
        """All-gather the rows, [any, local rows, ...] -> [any, rows, ...] on every rank; `scale` as in `shard`."""


class UnshardedRows:
    """The exchange of a single process that holds all rows: it exchanges nothing."""

    shared, first, last = False, True, True

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[None, None]:
        return None, None

    def gather(self, part: Tensor) -> Tensor:
        return part[None]

    def surroundings(self, x: Tensor, part: Tensor) -> tuple[None, None, Tensor]:
        return None, None, part[None]

    def gather_pixels(self, x: Tensor) -> Tensor:
        return x
