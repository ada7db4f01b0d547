"""Latents to tokens and back: samples of different sizes, packed one after another."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from models.nadit.config import Size3


def runs(grids: Sequence[Size3]) -> Iterator[tuple[int, Size3]]:
    """Neighbours of one size go through together: how many, and their grid."""
    for grid, same in groupby(grids):
        yield len(list(same)), grid


class PatchIn(nn.Module):
    """[L0, c] latents, each sample flattened (t h w) -> [L, C] tokens; a token's features are ordered (pt ph pw c)."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * prod(patch), dim)

    def forward(self, latents: Tensor, grids: Sequence[Size3], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """choose: all tokens -> those that are wanted; called before they become wide."""
        pt, ph, pw = self.patch
        samples = latents.split([n * prod(grid) * prod(self.patch) for n, grid in runs(grids)])
        tokens = [
            rearrange(x, "(n t pt h ph w pw) c -> (n t h w) (pt ph pw c)", n=n, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (n, (t, h, w)) in zip(samples, runs(grids), strict=True)
        ]
        return self.proj(choose(torch.cat(tokens)))


class PatchOut(nn.Module):
    """[L, C] tokens -> [L0, c] latents, the reverse of `PatchIn`."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, channels * prod(patch))

    def forward(self, tokens: Tensor, grids: Sequence[Size3], gather: Callable[[Tensor], Tensor]) -> Tensor:
        """gather: this share's tokens -> all of them; called when they are narrow again."""
        pt, ph, pw = self.patch
        samples = gather(self.proj(tokens)).split([n * prod(grid) for n, grid in runs(grids)])
        latents = [
            rearrange(x, "(n t h w) (pt ph pw c) -> (n t pt h ph w pw) c", n=n, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (n, (t, h, w)) in zip(samples, runs(grids), strict=True)
        ]
        return torch.cat(latents)
