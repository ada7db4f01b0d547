"""Converts latents to tokens and back, for packed samples of different sizes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from models.nadit.config import Size3


def runs(grids: Sequence[Size3]) -> Iterator[tuple[int, Size3]]:
    """Group adjacent samples of one size, which are processed together: their number, and their grid."""
    for grid, same in groupby(grids):
        yield len(list(same)), grid


class PatchIn(nn.Module):
    """Maps latents [L0, c], each sample flattened (t h w), to tokens [L, C]; a patch is ordered (pt ph pw c)."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * prod(patch), dim)

    def forward(self, latents: Tensor, grids: Sequence[Size3], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """`choose` selects the tokens of this rank; it is called before the projection, when tokens are small."""
        pt, ph, pw = self.patch
        samples = latents.split([n * prod(grid) * prod(self.patch) for n, grid in runs(grids)])
        tokens = [
            rearrange(x, "(n t pt h ph w pw) c -> (n t h w) (pt ph pw c)", n=n, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (n, (t, h, w)) in zip(samples, runs(grids), strict=True)
        ]
        return self.proj(choose(torch.cat(tokens)))


class PatchOut(nn.Module):
    """Maps tokens [L, C] to latents [L0, c], the reverse of `PatchIn`."""

    def __init__(self, channels: int, patch: Size3, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, channels * prod(patch))

    def forward(self, tokens: Tensor, grids: Sequence[Size3], gather: Callable[[Tensor], Tensor]) -> Tensor:
        """`gather` collects the tokens of all ranks; it is called after the projection, when tokens are small."""
        pt, ph, pw = self.patch
        samples = gather(self.proj(tokens)).split([n * prod(grid) for n, grid in runs(grids)])
        latents = [
            rearrange(x, "(n t h w) (pt ph pw c) -> (n t pt h ph w pw) c", n=n, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
            for x, (n, (t, h, w)) in zip(samples, runs(grids), strict=True)
        ]
        return torch.cat(latents)
