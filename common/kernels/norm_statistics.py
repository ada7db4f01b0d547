"""The parameters of a GroupNorm for the kernels, and the statistics that a pass measures for the next norm."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """A GroupNorm of each frame separately.

    weight, bias: [C].
    groups: number of groups of channels.
    eps: added to the variance.
    silu: whether SiLU follows.
    """

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    silu: bool


@dataclass(frozen=True)
class NormStatistics:
    """The statistics of an activation, measured by the pass that wrote it for the norm that reads it next.

    parts: float32 [B, T, S, C, 2], mean and sum of squared deviations of each channel over each chunk of pixels.
    chunk: number of pixels in a chunk; the last one may have fewer.
    pixels: number of pixels in a frame.
    """

    parts: Tensor
    chunk: int
    pixels: int

    def frames(self, start: int, stop: int) -> "NormStatistics":
        """The statistics of the frames start, ..., stop - 1."""
        return NormStatistics(self.parts[:, start:stop], self.chunk, self.pixels)
