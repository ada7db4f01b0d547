"""Convolutions of groups of m frames by Winograd F(m, 3) in time, in blocks of rows.

Only the m + 2 transformed frames and products of one block exist at a time, and each frame is freed after its product.
The algebra is in `common/kernels/winograd.py`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.norm_statistics import NormStatistics
from common.kernels.winograd import (
    chunk_of,
    new_statistics,
    transform_dtype,
    transform_input,
    transform_output,
    transform_weights,
)
from models.video_vae_v3.modules.blocks import Upsample
from models.video_vae_v3.modules.temporal_memory import ClipMemory

BLOCK_BYTES = 800 * 2**20  # approximate bound of a block's transformed frames and products: two blocks at 720 x 1280


class WinogradWeights(nn.Module):
    """The transformed weights of a layer, `products`, which become float16 if the network is cast to bfloat16.

    bfloat16 would round them to eight bits. They are a module so that `_apply` can override the cast.

    Args:
        taps: [3, A, B, h, w], see `transform_weights`.
        m: 2 or 4.
    """

    products: Tensor  # [m + 2, A, B, h, w]

    def __init__(self, taps: Tensor, m: int) -> None:
        super().__init__()
        self.register_buffer("products", transform_weights(taps, m), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def applied(x: Tensor) -> Tensor:
            y = fn(x)
            return x.to(y.device, transform_dtype(y.dtype)) if y.dtype == torch.bfloat16 else y

        return super()._apply(applied, recurse)  # type: ignore[no-untyped-call]  # as in nn.Module


def prepare_conv(conv: nn.Conv3d, sizes: Iterable[int]) -> None:
    """Derive the weights of F(m, 3) of a convolution [O, C, 3, 3, 3] for every m of `sizes`."""
    _store(conv, conv.weight.data.movedim(2, 0), sizes)


def prepare_upsample(up: Upsample, sizes: Iterable[int]) -> None:
    """The same for a folded upsampler that does not double time, [C, O, 3, 4, 4].

    The taps of a transposed convolution are ordered from the newest frame to the oldest, so they are reversed.
    """
    taps = up.derived_folded.movedim(2, 0)
    _store(up, taps if taps.is_meta else taps.flip(0), sizes)  # no arithmetic on meta, see `fold.prepare_inference`


def _store(layer: nn.Module, taps: Tensor, sizes: Iterable[int]) -> None:
    for m in sizes:
        setattr(layer, f"derived_winograd{m}", WinogradWeights(taps, m))


def has_winograd(layer: nn.Module, m: int) -> bool:
    return f"derived_winograd{m}" in layer._modules


class InputNorm(NamedTuple):
    """The norm that makes a convolution's input x * scale + shift.

    scale, shift: [B * T, C], see `frame_norm.norm_coefficients`.
    silu: whether SiLU follows.
    above, below: [B, T, 1, W, C], the rows of x of the neighbouring row blocks; None at the picture's edge.
    """

    scale: Tensor
    shift: Tensor
    silu: bool
    above: Tensor | None
    below: Tensor | None


class Addends(NamedTuple):
    """The summands that are added to a convolution's result.

    bias: [O], or a table, see `transform_output`.
    residual: a tensor of the shape of the result, which may be the tensor that the result is written to; None: none.
    deferred: [O], a bias that is not yet added to the residual; None: none.
    """

    bias: Tensor
    residual: Tensor | None = None
    deferred: Tensor | None = None


def winograd_conv(
    memory: ClipMemory,
    layer: nn.Module,
    x: Tensor,
    norm: InputNorm,
    out: Tensor,
    addends: Addends,
    measure: bool = True,
) -> NormStatistics | None:
    """Convolve the norm of m frames by F(m, 3), add the summands and write the result to `out`.

    Args:
        memory: that of the clip, which holds the layer's two carried frames; they are updated.
        layer: a convolution or folded upsampler with Winograd weights for m.
        x: [B, m, H, W, C].
        out: [B, m, up * H, up * W, O], with up = 2 for a folded upsampler, else 1; it may be a slice of a larger buffer
            in any dimension but O.
        measure: measure the statistics of `out`.
    Returns:
        The statistics of `out`; None without `measure` or without the Triton kernels.
    """
    batch, m, height, width, channels = x.shape
    up = out.shape[3] // width
    weights = getattr(layer, f"derived_winograd{m}").products
    past = memory.take(layer, x.device)
    statistics = new_statistics(out) if measure else None
    top, bottom = -int(norm.above is not None), height + int(norm.below is not None)  # rows that products may read
    align = chunk_of(out.shape[3])[1]
    step = block_rows(m, channels, up * up * out.shape[-1], batch * width * weights.element_size(), height, align)
    for start in range(0, height, step):
        stop = min(start + step, height)
        first, last = max(start - 1, top), min(stop + 1, bottom)
        # The next block reads rows stop - 1 and stop again, with the old carried frames, so they are not updated yet.
        settled = max(first, 0), height if stop == height else stop - 1
        frames = _transformed(x, norm, past, (first, last), settled, weights.dtype)[::-1]
        products = [_product(frames.pop(), weight, up) for weight in weights]  # each frame is freed after its product
        transform_output(out, products, (up * start, up * stop), up * (start - first), *addends, statistics)
        del products  # before the frames of the next block are made
    memory.put(layer, past)
    return statistics


def _transformed(
    x: Tensor, norm: InputNorm, past: Tensor, rows: tuple[int, int], settled: tuple[int, int], dtype: torch.dtype
) -> list[Tensor]:
    """The m + 2 transformed frames of some rows of the norm of x, [B, R, W, C] each.

    Args:
        past: the two carried frames [B, 2, H, W, C], with the neighbours' rows if ranks share the picture; updated.
        rows: (start, stop) of the rows; -1 and H are those of the neighbours.
        settled: (start, stop) of the rows of `past` to update, see `transform_input`.
    """
    scale, shift, silu, above, below = norm
    (batch, m, height, width, channels), (first, last) = x.shape, rows
    frames = [x.new_empty(batch, last - first, width, channels, dtype=dtype) for _ in range(m + 2)]
    halo, inner = (past.shape[2] - height) // 2, (max(first, 0), min(last, height))
    own = past[:, :, halo : halo + height]
    transform_input(frames, x, scale, shift, silu, own, inner, settled, inner[0] - first)
    if above is not None and first < 0:
        transform_input(frames, above, scale, shift, silu, past[:, :, :1], (0, 1), (0, 1))
    if below is not None and last > height:
        transform_input(frames, below, scale, shift, silu, past[:, :, -1:], (0, 1), (0, 1), last - first - 1)
    return frames


def working_channels(m: int, inner: int, outer: int) -> int:
    """The largest number of channels of frames (`inner` each) and products (`outer` each) that exist at one time."""
    return max((m + 2) * inner + outer, inner + (m + 2) * outer)


def block_rows(m: int, inner: int, outer: int, row_bytes: int, height: int, align: int) -> int:
    """The number of rows in a block, a multiple of `align`: as few blocks as `BLOCK_BYTES` allows, of similar height.

    Similar heights, because a short last block would leave most of the device idle.

    Args:
        inner, outer: number of channels of a transformed frame and of a product, per pixel of the input.
        row_bytes: size of one row of one channel in bytes, for the batch.
        height: number of rows in total.
    """
    most = max(BLOCK_BYTES // (row_bytes * working_channels(m, inner, outer)) // align, 1) * align
    blocks = -(-height // most)
    return -(-height // (blocks * align)) * align


def _product(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """The zero-padded product of x [B, R, W, C] with a weight, packed [B, up * R, up * W, O].

    The weight is [O, C, 3, 3] if up = 1, and [C, O, 4, 4] of a transposed convolution if up = 2.
    """
    x = x.permute(0, 3, 1, 2)
    y = F.conv2d(x, weight, None, 1, 1) if up == 1 else F.conv_transpose2d(x, weight, None, up, 1)
    return y.permute(0, 2, 3, 1).contiguous()
