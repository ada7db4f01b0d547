"""The operations of a `Group` with gradients: each is linear, and its backward pass applies the adjoint.

The loss of a group is the sum of its ranks' losses. In training with shared clips every rank computes the whole loss,
so the gradients, summed over the group, are those of the loss times the group's size. The mean of gradients over all
ranks of the job (FSDP, `fsdp.average_gradients`) is then the mean over groups of the loss's gradient: no scaling is
needed.

Every rank must run the same backward operations in the same order. Autograd runs nodes in the reverse of the order in
which they were made, so all ranks must make the same calls, even a rank whose share is empty.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from common.distributed.collectives import Group
from common.kernels.cached_choice import not_traced

BACKWARD = ", backward"


class RowExchange(Protocol):
    """The interface of `common.distributed.row_parallel.RowParallel` that is used here."""

    def neighbours(self, x: Tensor, above: bool, below: bool) -> tuple[Tensor | None, Tensor | None]:
        """The rows next to this block."""

    def gather(self, part: Tensor) -> Tensor:
        """[...] of every block -> [blocks, ...]."""


class _Exchange(Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, group: Group, send: Sequence[int], receive: Sequence[int], purpose: str
    ) -> Tensor:
        ctx.group, ctx.send, ctx.receive, ctx.purpose = group, send, receive, purpose
        return group.exchange(rows, send, receive, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.group.exchange(gradient, ctx.receive, ctx.send, ctx.purpose + BACKWARD)
        return rows, None, None, None, None


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group, purpose: str) -> Tensor:
        ctx.group, ctx.purpose = group, purpose
        return group.total(tensor, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.total(gradient, ctx.purpose + BACKWARD), None, None


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group, counts: Sequence[int], purpose: str) -> Tensor:
        ctx.group, ctx.counts, ctx.purpose = group, counts, purpose
        return group.gather_rows(rows, counts, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Every rank receives the gradients of its rows from all others and sums them.
        group, counts = ctx.group, ctx.counts
        count = counts[group.rank]
        arrived = group.exchange(gradient, counts, [count] * group.size, ctx.purpose + BACKWARD)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        summed = arrived.unflatten(0, (group.size, count)).sum(0, dtype=wide)
        return summed.to(gradient.dtype), None, None, None


class _Neighbours(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: RowExchange, above: bool, below: bool) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.requested, ctx.shape = rows, (above, below), x.shape
        # Zeros for a missing row: a block that receives none may have sent one, whose gradient it must receive.
        first, second = (
            torch.zeros_like(x[:, :, :1]) if row is None else row for row in rows.neighbours(x, above, below)
        )
        return first, second

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient of a row returns to its block: that of the row above to the last row of the block above.
        above, below = ctx.requested
        found = ctx.rows.neighbours(torch.cat(gradients, dim=2).contiguous(), above=below, below=above)
        gradient = gradients[0].new_zeros(ctx.shape)
        for place, row in zip((0, -1), found, strict=True):
            if row is not None:
                gradient[:, :, place] += row[:, :, 0]
        return gradient, None, None, None


class _GatherBlocks(Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, rows: RowExchange, number: int) -> Tensor:
        ctx.rows, ctx.number = rows, number
        return rows.gather(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.rows.gather(gradient)[:, ctx.number].sum(0), None, None  # they are small


@not_traced
def exchange(group: Group, rows: Tensor, send: Sequence[int], receive: Sequence[int], purpose: str) -> Tensor:
    """`Group.exchange`; backward, the gradients of rows return to the ranks that sent the rows."""
    return _Exchange.apply(rows, group, send, receive, purpose)  # type: ignore[no-untyped-call]


@not_traced
def total(group: Group, tensor: Tensor, purpose: str) -> Tensor:
    """`Group.total`; backward, gradients are summed over the group."""
    return _Total.apply(tensor, group, purpose)  # type: ignore[no-untyped-call]


@not_traced
def gather_rows(group: Group, rows: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
    """`Group.gather_rows`; backward, every rank gets the sum over the group of its rows' gradients."""
    return _GatherRows.apply(rows, group, counts, purpose)  # type: ignore[no-untyped-call]


@not_traced
def neighbours(rows: RowExchange, x: Tensor, above: bool, below: bool) -> tuple[Tensor, Tensor]:
    """`RowExchange.neighbours`, with zeros for rows that are not requested or lie outside the picture."""
    return _Neighbours.apply(x, rows, above, below)  # type: ignore[no-untyped-call]


@not_traced
def gather_blocks(rows: RowExchange, part: Tensor, number: int) -> Tensor:
    """`RowExchange.gather`, on block `number`."""
    return _GatherBlocks.apply(part, rows, number)  # type: ignore[no-untyped-call]
