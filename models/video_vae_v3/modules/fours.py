"""Large levels four frames at a time, with half the products: minimal filtering in time, in bands of rows.

A band's six combined frames and six products are all that exists of them at once. See
`common/kernels/minimal_filter.py` for the algebra.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.frame_norm import Moments
from common.kernels.minimal_filter import (
    CARRIED,
    SHRINK,
    TAKEN,
    chunk_of,
    filter_dtype,
    filter_input,
    filter_output,
    filter_weights,
    new_moments,
)

BAND_BYTES = 640 * 2**20  # of what goes into and comes out of the products of a band, about


class FilterWeights(nn.Module):
    """The weights of the six products, `six`; in float16 where the network is cast to bfloat16.

    A module, so that it hears of casts: bfloat16 would round the combined weights to eight bits.

    Args:
        taps: see `filter_weights`.
    """

    def __init__(self, taps: Tensor) -> None:
        super().__init__()
        self.register_buffer("six", filter_weights(taps), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def applied(x: Tensor) -> Tensor:
            y = fn(x)
            return x.to(y.device, filter_dtype(y.dtype)) if y.dtype == torch.bfloat16 else y

        return super()._apply(applied, recurse)


class FilteredPast:
    """The last two frames of what a convolution reads, by SHRINK.

    Args:
        first: [B, H, W, C] the clip's first frame, which is its own past.
    Attributes:
        frames: [B, 2, H, W, C].
    """

    def __init__(self, first: Tensor) -> None:
        shrunk = first.mul(SHRINK).to(filter_dtype(first.dtype))
        self.frames = shrunk[:, None].repeat(1, CARRIED, 1, 1, 1)

    def hand_over(self, buffer: Tensor) -> None:
        """Where frames come that are not four: write the past in front, and keep the buffer's last two.

        Args:
            buffer: [B, 2 + T, H, W, C].
        """
        buffer[:, :CARRIED] = self.frames.div(SHRINK)
        self.frames.copy_(buffer[:, -CARRIED:].mul(SHRINK))


def prepare_filter(conv: nn.Module) -> None:
    """Give a convolution [O, C, 3, 3, 3] the weights of its products."""
    conv.derived_filter = FilterWeights(conv.weight.data.movedim(2, 0))


def prepare_upsample_filter(up: nn.Module) -> None:
    """The same for a folded upsampler that leaves time alone, [C, O, 3, 4, 4], which meets the newest frame first."""
    up.derived_filter = FilterWeights(up.derived_folded.movedim(2, 0).flip(0))


def has_filter(module: nn.Module) -> bool:
    return "derived_filter" in module._modules


def filter_four(
    layer: nn.Module,
    past: FilteredPast,
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    silu: bool,
    out: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    pending: Tensor | None = None,
    measure: bool = True,
    up: int = 1,
) -> Moments | None:
    """A layer's convolution of the norm of four frames, plus residual + pending, into `out`.

    Args:
        x: [B, 4, H, W, C]. norm: (scale, shift), see `frame_norm.norm_coefficients`.
        out: [B, 4, up * H, up * W, O], any strides but in O.
        bias: see `filter_output`. residual: of the shape of `out`, or the same tensor; pending: [O].
        measure: also return the moments of `out`, where the path takes them.
        up: 2 for a folded upsampler.
    """
    six, (batch, _, height, width, channels) = layer.derived_filter.six, x.shape
    moments = new_moments(out) if measure else None
    row_bytes = TAKEN * batch * width * (channels + up * up * out.shape[-1]) * six.element_size()
    align = chunk_of(out.shape[3])[1]
    step = max(BAND_BYTES // row_bytes // align, 1) * align
    for start in range(0, height, step):
        stop = min(start + step, height)
        first, last = max(start - 1, 0), min(stop + 1, height)  # rows that the products' windows reach
        combined = x.new_empty(TAKEN, batch, last - first, width, channels, dtype=six.dtype)
        # The next band reads its first two rows once more, with the frames before these.
        settled = first, height if stop == height else stop - 1
        filter_input(combined, x, *norm, silu, past.frames, (first, last), settled)
        products = [_product(frame, weight, up) for frame, weight in zip(combined, six, strict=True)]
        del combined
        rows, skip = (up * start, up * stop), up * (start - first)
        filter_output(out, products, rows, skip, bias, residual, pending, moments)
    return moments


def _product(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """[B, R, W, C] and a weight [O, C, 3, 3], or [C, O, 4, 4] where up = 2 -> [B, up * R, up * W, O], zeros around."""
    x = x.movedim(-1, 1)
    y = F.conv2d(x, weight, None, 1, 1) if up == 1 else F.conv_transpose2d(x, weight, None, up, 1)
    return y.movedim(1, -1).contiguous()
