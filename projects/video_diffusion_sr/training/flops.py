"""Model floating point operations: those that the mathematics asks for, whatever a program computes on top.

A multiplication by a weight and its addition are two operations a token; attention over a sequence of S tokens takes
4 S^2 (H D). Norms, rotations and everything elementwise are not counted. A training step is three forward passes.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from models.nadit.config import NaDiTConfig
from models.nadit.layout import Size3, token_grid
from models.nadit.mlp import SwiGLU
from models.nadit.windows import cut_windows


def linear_weights(config: NaDiTConfig) -> int:
    """Weights of the linear layers of one block, as one token of one stream meets them."""
    inner = config.heads * config.head_dim
    if config.mlp == "swiglu":
        mlp = 3 * config.dim * SwiGLU.hidden(config.dim, config.expand_ratio)
    else:
        mlp = 2 * config.dim * config.dim * config.expand_ratio
    return config.dim * 3 * inner + inner * config.dim + mlp


def forward_flops(config: NaDiTConfig, sizes: Sequence[Size3], text_lengths: Sequence[int]) -> float:
    """Operations of one forward pass over packed latents of these sizes (t, h, w)."""
    return sum(sample_flops(config, tuple(size), text) for size, text in zip(sizes, text_lengths, strict=True))


@lru_cache(maxsize=1024)
def sample_flops(config: NaDiTConfig, size: Size3, text: int) -> float:
    """`forward_flops` of one sample."""
    grid = token_grid(size, config.patch_size)
    video, inner = prod(grid), config.heads * config.head_dim
    patch = prod(config.patch_size)
    total = 2.0 * video * patch * config.dim * (config.vid_in_channels + config.vid_out_channels)
    if config.txt_in_dim != config.dim:
        total += 2.0 * text * config.txt_in_dim * config.dim
    total += 2.0 * config.num_layers * linear_weights(config) * (video + text)
    for counts, shifted in zip(config.windows, config.shifted, strict=True):
        total += attention_flops(grid, counts, shifted, text, inner)
    return total


@lru_cache(maxsize=1024)
def attention_flops(grid: Size3, counts: Size3, shifted: bool, text: int, inner: int) -> float:
    """Scores and weighted sums in all windows of one sample in one block; every window carries the text."""
    sizes = [(t1 - t0) * (h1 - h0) * (w1 - w0) for t0, t1, h0, h1, w0, w1 in cut_windows(grid, counts, shifted)]
    return sum(4.0 * (size + text) ** 2 * inner for size in sizes)
