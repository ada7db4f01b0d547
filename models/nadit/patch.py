"""Latents to tokens and back: samples of different sizes, packed one after another."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from models.nadit.config import Size3


class PatchIn(nn.Module):
    """[L0, c] latents, each sample flattened (t h w) -> [L, C] tokens; a token's features are ordered (pt ph pw c)."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * prod(patch), dim)

    def forward(self, latents: Tensor, grids: Sequence[Size3], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """choose: all tokens -> those that are wanted; called before they become wide."""
        pt, ph, pw = self.patch
        samples = latents.split([prod(grid) * prod(self.patch) for grid in grids])
        tokens = [
            rearrange(x, "(t pt h ph w pw) c -> (t h w) (pt ph pw c)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (t, h, w) in zip(samples, grids, strict=True)
        ]
        return self.proj(choose(torch.cat(tokens)))


class PatchOut(nn.Module):
    """[L, C] tokens -> [L0, c] latents, the reverse of `PatchIn`."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, channels * prod(patch))

    def forward(self, tokens: Tensor, grids: Sequence[Size3], gather: Callable[[Tensor], Tensor]) -> Tensor:
        """gather: the tokens at hand -> all of them; called when they are narrow again."""
        pt, ph, pw = self.patch
        samples = gather(self.proj(tokens)).split([prod(grid) for grid in grids])
        latents = [
            rearrange(x, "(t h w) (pt ph pw c) -> (t pt h ph w pw) c", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (t, h, w) in zip(samples, grids, strict=True)
        ]
        return torch.cat(latents)
