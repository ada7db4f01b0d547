"""The verbs of a `Group` with gradients: each is linear, and going backward applies its adjoint.

The loss of a group is the sum of what its ranks compute. Where every rank computes the whole loss, as in training with
shared clips, gradients are therefore those of the loss times the ranks of the group, spread over them; the mean of
gradients over all ranks of the job, as FSDP and `fsdp.average_gradients` take it, is then the mean over groups of the
loss's gradient, and nothing is scaled anywhere.

Every rank must go backward through the same verbs in the same order. Autograd takes nodes in the reverse of the order
in which they were made, so this holds where all ranks make the same calls; a rank whose share is empty makes them, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from common.distributed.collectives import Group

BACKWARD = ", backward"


class _Exchange(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group: Group, send: Sequence[int], receive: Sequence[int], purpose: str) -> Tensor:
        ctx.group, ctx.send, ctx.receive, ctx.purpose = group, send, receive, purpose
        return group.exchange(rows, send, receive, purpose)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rows = ctx.group.exchange(gradient, ctx.receive, ctx.send, ctx.purpose + BACKWARD)
        return rows, None, None, None, None


class _Total(Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, group: Group, purpose: str) -> Tensor:
        ctx.group, ctx.purpose = group, purpose
        return group.total(tensor, purpose)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.group.total(gradient, ctx.purpose + BACKWARD), None, None


class _GatherRows(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group: Group, counts: Sequence[int], purpose: str) -> Tensor:
        ctx.group, ctx.counts, ctx.purpose = group, counts, purpose
        return group.gather_rows(rows, counts, purpose)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        # Every rank gets the gradients of its rows from all others, and adds them up.
        group, counts = ctx.group, ctx.counts
        own = counts[group.own]
        arrived = group.exchange(gradient, counts, [own] * group.size, ctx.purpose + BACKWARD)
        summed = arrived.unflatten(0, (group.size, own)).sum(0, dtype=torch.float32)
        return summed.to(gradient.dtype), None, None, None


@torch.compiler.disable
def exchange(group: Group, rows: Tensor, send: Sequence[int], receive: Sequence[int], purpose: str) -> Tensor:
    """`Group.exchange`; backward the rows' gradients take the same way back."""
    return _Exchange.apply(rows, group, send, receive, purpose)


@torch.compiler.disable
def total(group: Group, tensor: Tensor, purpose: str) -> Tensor:
    """`Group.total`; backward gradients are summed over the group likewise."""
    return _Total.apply(tensor, group, purpose)


@torch.compiler.disable
def gather_rows(group: Group, rows: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
    """`Group.gather_rows`; backward every rank sums up the gradients of its rows over the group."""
    return _GatherRows.apply(rows, group, counts, purpose)
