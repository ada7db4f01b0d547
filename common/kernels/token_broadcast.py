"""Broadcasts one vector per sample to its tokens, with a gradient that needs no atomic additions."""

from typing import Any

import torch
from torch import Tensor


def broadcast_to_tokens(vectors: Tensor, sample_of_token: Tensor | None) -> Tensor:
    """The vector of each token's sample: [B, C] -> [n, C].

    Args:
        sample_of_token: int64 [n], index of the sample of each token. None: there is one sample, whose vectors [1, C]
            are returned as they are.
    """
    if sample_of_token is None:
        return vectors
    if torch.is_grad_enabled() and vectors.requires_grad:
        rows: Tensor = _BroadcastToTokens.apply(vectors, sample_of_token)  # type: ignore[no-untyped-call]  # as in torch
        return rows
    return vectors.index_select(0, sample_of_token)


class _BroadcastToTokens(torch.autograd.Function):
    """`index_select` whose gradient is a matrix product with the indicator matrix of the samples, [B, n].

    The gradient of `index_select` would add the rows of all tokens to the few rows of samples by atomic additions,
    thousands to one address, one after another.
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
