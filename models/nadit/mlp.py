"""The two feed-forward layers: GELU with biases (7B) and SwiGLU without (3B)."""

from abc import ABC, abstractmethod
from math import ceil

import torch
from torch import Tensor, nn

from common.kernels.gated import linear_gelu, silu_mul


class FeedForward(nn.Module, ABC):
    """The base of both layers. Tokens can be processed in chunks, which bounds the memory of the wide hidden layer."""

    token_chunk: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.token_chunk is None or len(x) <= self.token_chunk or torch.is_grad_enabled():
            return self.feed(x)
        out = torch.empty_like(x)
        for chunk, target in zip(x.split(self.token_chunk), out.split(self.token_chunk), strict=True):
            target.copy_(self.feed(chunk))
        return out

    @abstractmethod
    def feed(self, x: Tensor) -> Tensor:
        """Process all tokens at once: [n, C] -> [n, C]."""


def set_token_chunk(network: nn.Module, tokens: int | None) -> None:
    """Set how many tokens the feed-forward layers of `network` process at once; None: all."""
    if tokens is not None and tokens < 1:
        raise ValueError(f"token_chunk={tokens} must be at least 1, or None for all tokens at once")
    for module in network.modules():
        if isinstance(module, FeedForward):
            module.token_chunk = tokens


class MLP(FeedForward):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, dim: int, expand_ratio: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, dim * expand_ratio)
        self.proj_out = nn.Linear(dim * expand_ratio, dim)

    def feed(self, x: Tensor) -> Tensor:
        return self.proj_out(linear_gelu(x, self.proj_in))


class SwiGLU(FeedForward):
    """out(silu(gate(x)) * in(x)), with two thirds of the MLP's hidden width, rounded up to a multiple of 256."""

    def __init__(self, dim: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = self.hidden(dim, expand_ratio)
        self.proj_in_gate = nn.Linear(dim, hidden, bias=False)
        self.proj_out = nn.Linear(hidden, dim, bias=False)
        self.proj_in = nn.Linear(dim, hidden, bias=False)

    @staticmethod
    def hidden(dim: int, expand_ratio: int) -> int:
        """The hidden width."""
        return 256 * ceil(int(2 * dim * expand_ratio / 3) / 256)

    def feed(self, x: Tensor) -> Tensor:
        return self.proj_out(silu_mul(self.proj_in_gate(x), self.proj_in(x)))
