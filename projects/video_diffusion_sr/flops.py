"""Counts the floating point operations that the networks' mathematics needs, whatever else a program computes.

A multiplication by a weight and the addition of the product are two operations. Those of the transformer follow from a
formula, since the sizes of batches vary from step to step; attention over a sequence of S tokens takes 4 S^2 (H D).
Those of other networks are counted on the meta device. Norms, rotations and elementwise operations are left out. A
training step counts as three forward passes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.nadit.config import NaDiTConfig, Size3
from models.nadit.layout import token_grid
from models.nadit.mlp import SwiGLU
from models.nadit.windows import cut_windows


def counted_flops(run: Callable[[], Any]) -> float:
    """The operations of linear layers, convolutions and attention in a call of `run`, best on the meta device."""
    mapping = {torch.ops.aten.convolution: convolution_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())


def convolution_flops(x: list[int], weight: list[int], *arguments: Any, out_shape: Any = None, **_: Any) -> int:
    """The operations of a convolution, counted from its output.

    So for a transposed convolution, products of carried frames for outputs that are dropped do not count.

    Args:
        x, weight: shapes.
        arguments: the other arguments of `aten.convolution`, of which the stride and `transposed` are read.
        out_shape: shape of the output.
    """
    _bias, stride, _padding, _dilation, transposed = arguments[:5]
    taps = prod(weight[2:])
    if transposed:
        taps = taps / prod(stride)  # number of taps that contribute to one output
    inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    return int(2 * x[0] * prod(out_shape[2:]) * taps * inner * outer)


def transformer_flops(config: NaDiTConfig, sizes: Sequence[Size3], text_lengths: Sequence[int]) -> float:
    """The operations of one forward pass of the transformer.

    Args:
        sizes: latent (t, h, w) of each sample of a packed batch.
        text_lengths: number of tokens of each sample's text embedding.
    """
    samples = Counter(((t, h, w), text) for (t, h, w), text in zip(sizes, text_lengths, strict=True))
    return sum((count * sample_flops(config, size, text) for (size, text), count in samples.items()), start=0.0)


def sample_flops(config: NaDiTConfig, size: Size3, text: int) -> float:
    """The operations of `transformer_flops` for one sample."""
    grid = token_grid(size, config.patch_size)
    video, inner = prod(grid), config.heads * config.head_dim
    patch = prod(config.patch_size)
    total = 2.0 * video * patch * config.dim * (config.vid_in_channels + config.vid_out_channels)
    if config.txt_in_dim != config.dim:
        total += 2.0 * text * config.txt_in_dim * config.dim
    total += 2.0 * config.num_layers * linear_weights(config) * (video + text)
    blocks = Counter(zip(config.windows, config.shifted, strict=True))
    for (counts, shifted), number in blocks.items():
        total += number * attention_flops(cut_windows(grid, counts, shifted), text, inner)
    return total


def linear_weights(config: NaDiTConfig) -> int:
    """The number of weights in the linear layers of one block that one token passes through."""
    inner = config.heads * config.head_dim
    if config.mlp == "swiglu":
        mlp = 3 * config.dim * SwiGLU.hidden(config.dim, config.expand_ratio)
    else:
        mlp = 2 * config.dim * config.dim * config.expand_ratio
    return config.dim * 3 * inner + inner * config.dim + mlp


def attention_flops(windows: Sequence[tuple[int, ...]], text: int, inner: int) -> float:
    """The operations of scores and weighted sums in all windows of one sample in one block, text included.

    Args:
        windows: first and end position of each window in t, h and w.
        text: number of text tokens, which are in every window.
        inner: number of heads times channels of a head.
    """
    sizes = [(t1 - t0) * (h1 - h0) * (w1 - w0) for t0, t1, h0, h1, w0, w1 in windows]
    return sum(4.0 * (size + text) ** 2 * inner for size in sizes)


def vae_flops(vae: torch.nn.Module, size: tuple[int, ...]) -> float:
    """The operations of encoding and decoding a clip of size (T, H, W) at once; `vae` is on the meta device."""
    return counted_flops(lambda: vae(_empty(1, 3, *size)))


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
