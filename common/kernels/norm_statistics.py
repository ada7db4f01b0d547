"""GroupNorm as kernels take it, and what a pass measures for it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """GroupNorm of every frame alone, and whether SiLU follows. weight, bias: [C]."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    silu: bool


@dataclass(frozen=True)
class NormStatistics:
    """What a pass over an activation measured of it, for the norm that reads it next.

    parts: [B, T, S, C, 2] float32, mean and sum of squared deviations of every chunk of pixels and channel.
    chunk: pixels in a chunk (the last one may have fewer); pixels: of a frame.
    """

    parts: Tensor
    chunk: int
    pixels: int

    def frames(self, start: int, stop: int) -> "NormStatistics":
        """Of the frames start..stop alone."""
        return NormStatistics(self.parts[:, start:stop], self.chunk, self.pixels)
