"""The discriminator of VAE training: a PatchGAN over small volumes of a clip in space and time."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # negative slope of the leaky ReLU, as in PatchGAN (pix2pix, arXiv 1611.07004)


class VideoPatchDiscriminator(nn.Module):
    """Clips [B, 3, T, H, W] in [-1, 1] -> one logit per patch, [B, 1, T, H', W'].

    Every layer but the last halves height and width, and every layer but the first has three taps in time. There the
    first and the last frame are repeated, so single images are allowed too.

    Args:
        channels: output channels of all layers but the last, in order.
        groups: number of groups of their GroupNorm. With BatchNorm, a logit would depend on the other clips of its
            batch.

    Raises:
        ValueError: `channels` is empty or has a number that is not a multiple of `groups`.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), groups: int = 8) -> None:
        super().__init__()
        if not channels or any(width % groups for width in channels):
            raise ValueError(f"the discriminator's channels must be multiples of {groups}, got {list(channels)}")
        self.first = nn.Conv3d(3, channels[0], (1, 4, 4), (1, 2, 2), (0, 1, 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, (3, 4, 4), (1, 2, 2), (0, 1, 1), bias=False),
                nn.GroupNorm(groups, after),
                nn.LeakyReLU(SLOPE),
            )
            for before, after in pairwise(channels)
        )
        self.last = nn.Conv3d(channels[-1], 1, (3, 3, 3), padding=(0, 1, 1))

    def forward(self, clip: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(clip), SLOPE)
        for block in self.blocks:
            x = block(repeat_ends(x))
        return self.last(repeat_ends(x))


def repeat_ends(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, C, T + 2, H, W]: repeats the first and the last frame."""
    return F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
