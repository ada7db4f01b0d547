"""Rotary position embedding: frequencies, positions in a window, and tables of cosines and sines.

Angles are always float32, because bfloat16 cannot tell position 256 from 257.
"""

from collections.abc import Callable
from functools import cache
from typing import Self

import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn

from common.kernels.transfer import to_device
from models.nadit.config import RopeConfig

Tables = tuple[Tensor, Tensor]  # cos, sin, each [tokens, 3 * axis_frequencies] float32

THETA = 10000
MAX_FREQUENCY = 256  # the 7B's "pixel" frequencies go up to half of this, whatever the head width


def frequencies(rope: RopeConfig, device: torch.device | str = "cpu") -> Tensor:
    """The frequency vector of one axis, [axis_frequencies] float32."""
    return to_device(_frequencies(rope).clone(), device)


@cache
def _frequencies(rope: RopeConfig) -> Tensor:
    """Compute the frequencies on the CPU, once, since the library also builds a table of 8192 positions."""
    with torch.device("cpu"):  # a model built on the meta device needs values here as well
        kind = "lang" if rope.kind == "text_and_video" else "pixel"
        table = RotaryEmbedding(rope.axis_features, freqs_for=kind, theta=THETA, max_freq=MAX_FREQUENCY)
    return table.freqs.detach().float()


class RopeFrequencies(nn.Module):
    """Holds the frequencies under their name in the released checkpoints (`rope.rope.freqs`).

    The values are computed and always float32, because rounding to half precision shifts angles by up to 0.87 rad.
    """

    def __init__(self, rope: RopeConfig) -> None:
        super().__init__()
        self.config = rope
        self.rope = nn.Module()
        self.rope.register_buffer("freqs", torch.empty(rope.axis_frequencies, dtype=torch.float32))
        self.reset_buffers()

    @property
    def freqs(self) -> Tensor:
        """The frequencies of one axis, [axis_frequencies] float32."""
        return self.rope.get_buffer("freqs")

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Compute the frequencies again, on `device`; None: on the device of the buffer."""
        target = self.freqs.device if device is None else torch.device(device)
        if target.type != "meta":
            self.rope.freqs = frequencies(self.config, target)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # called by .to(), .half(), ...
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # as in nn.Module
        if self.freqs.dtype != torch.float32:
            self.rope.freqs = self.freqs.float()
            self.reset_buffers()
        return self


def window_positions(rope: RopeConfig, size: tuple[int, int, int], text_length: int) -> Tensor:
    """The positions of a window's tokens on the three axes: [t*h*w, 3] float32, in (t h w) order.

    Args:
        size: (t, h, w) of this window; windows at the border are smaller.
        text_length: number of text tokens of the sample; in the 3B, the video's times begin after the text.
    """
    if rope.kind == "text_and_video":
        axes = [torch.arange(n, dtype=torch.float32) for n in size]
        axes[0] = axes[0] + text_length
    else:
        axes = [torch.linspace(-1, 1, n) for n in size]  # a single token has position -1
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def text_positions(length: int) -> Tensor:
    """The positions of a sample's text tokens, [length, 3]: token j has position j on all three axes."""
    return torch.arange(length, dtype=torch.float32)[:, None].expand(-1, 3)


def tables(positions: Tensor, freqs: Tensor) -> Tables:
    """Cosines and sines of position * frequency, for the axes t, h, w in this order: [n, 3] -> 2 x [n, 3F] float32."""
    angles = (positions[:, :, None] * freqs).flatten(1)
    return angles.cos(), angles.sin()
