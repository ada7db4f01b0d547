"""One vector a sample as one row a token, with a gradient that does not queue up at a few addresses."""

from typing import Any

import torch
from torch import Tensor


def broadcast_to_tokens(vectors: Tensor, sample_of_token: Tensor | None) -> Tensor:
    """One vector a sample as one row a token: [B, C] -> [n, C], or [1, C] when there is a single sample (None)."""
    if sample_of_token is None:
        return vectors
    if torch.is_grad_enabled() and vectors.requires_grad:
        rows: Tensor = _BroadcastToTokens.apply(vectors, sample_of_token)  # type: ignore[no-untyped-call]  # as in torch
        return rows
    return vectors.index_select(0, sample_of_token)


class _BroadcastToTokens(torch.autograd.Function):
    """`index_select` whose gradient is a matrix product with the samples' indicators.

    The gradient of `index_select` adds every token's row to its sample's: thousands of atomic additions to the same
    few rows, one after another.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, sample_of_token: Tensor) -> Tensor:
        ctx.samples = len(vectors)
        ctx.save_for_backward(sample_of_token)
        return vectors.index_select(0, sample_of_token)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (sample_of_token,) = ctx.saved_tensors
        samples = torch.arange(ctx.samples, device=gradient.device)
        belongs = (samples[:, None] == sample_of_token).to(gradient.dtype)  # B n
        return belongs @ gradient, None
