"""3x3x3 convolutions from or to RGB pixels, on which library kernels waste most of their work.

A convolution to few channels is a tap projection, a matrix product of every pixel with all taps at once, and a sum of
the shifted projections. So the wide activation is read once, and sums of projections are carried between slices.
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from common.kernels.triton_support import use_triton

MOST_RGB_CHANNELS = 4
ALIGNED = 16  # the library's tensor-core kernels need a multiple of this many channels


def conv_from_rgb(x: Tensor, weight: Tensor, pad_rows: bool = True) -> Tensor:
    """Convolution of few channels with zero padding in width, no padding in time and no bias.

    Args:
        x: [B, T, H, W, C], C <= 4.
        weight: [O, C, k, 3, 3].
        pad_rows: zero padding in height too. False: the first and the last row of x are halo rows.
    Returns:
        [B, T - k + 1, H, W, O] in the dtype of x, or H - 2 rows without `pad_rows`.
    """
    if use_triton(x, weight):
        if x.dtype != torch.float32:
            return conv_of_stacked(x, weight, pad_rows)
        from common.kernels import rgb_conv_triton as kernels

        y = kernels.conv_from_rgb(x, weight)
        return y if pad_rows else y[:, :, 1:-1].contiguous()
    y = conv3d(x.movedim(-1, 1), weight, None, (1, 1, 1), (0, int(pad_rows), 1))
    return y.movedim(1, -1).contiguous()


def conv_of_stacked(x: Tensor, weight: Tensor, pad_rows: bool = True) -> Tensor:
    """`conv_from_rgb` as a 2-D convolution: the k frames that an output frame depends on are stacked as channels.

    Channels are padded with zeros to a multiple of `ALIGNED`, which the library's tensor-core kernels need.
    """
    (batch, frames, height, width, few), (outer, _, kernel, *window) = x.shape, weight.shape
    frames, channels = frames - kernel + 1, ceil(kernel * few / ALIGNED) * ALIGNED
    stacked = x.new_zeros(batch, frames, height, width, channels)
    flat = weight.new_zeros(outer, *window, channels)
    for tap in range(kernel):
        own = slice(tap * few, (tap + 1) * few)
        stacked[..., own] = x[:, tap : tap + frames]
        flat[..., own] = weight[:, :, tap].movedim(1, -1)
    y = F.conv2d(stacked.flatten(0, 1).movedim(-1, 1), flat.movedim(-1, 1), None, 1, (int(pad_rows), 1))
    return y.movedim(1, -1).contiguous().unflatten(0, (batch, frames))


def uses_tap_projection(x: Tensor, channels_out: int) -> bool:
    """Whether a network's last convolution uses `tap_projection` and `streaming_tap_sum`; x: [B, T, H, W, C]."""
    return channels_out <= MOST_RGB_CHANNELS and use_triton(x) and x.shape[-1] <= 256


def tap_projection(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> None:
    """Product of SiLU(x * scale + shift) with every tap of a 3x3x3 convolution, for each pixel; written to `out`.

    Args:
        out: [B, 27 * O, T, H, W] in `tap_dtype(x)`, contiguous in height and width, ordered (time tap, row tap,
            column tap, O) in its second dimension.
        x: [B, T, H, W, C].
        scale, shift: [B * T, C], the norm of x, see `frame_norm.norm_coefficients`.
        weight: [O, C, 3, 3, 3], O <= 4.
    """
    from common.kernels import rgb_conv_triton as kernels

    kernels.tap_projection(out, x, scale, shift, weight)


def new_tap_sums(taps: Tensor) -> Tensor:
    """An uninitialised state of `streaming_tap_sum`: float32 [B, 2, O, H, W], for projections [B, 27 * O, 1, H, W]."""
    batch, planes, _, height, width = taps.shape
    return taps.new_empty(batch, 2, planes // 27, height, width, dtype=torch.float32)


def streaming_tap_sum(taps: Tensor, bias: Tensor, sums: Tensor, first: bool) -> Tensor:
    """The next frame of the convolution's result, summed over the projections of this frame and the two before it.

    Args:
        taps: [B, 27 * O, 1, H, W], the projections of the new frame.
        sums: see `new_tap_sums`; updated in place. It holds the sums that the frames so far contribute to the next
            output frame and to the one after it.
        first: whether this is the clip's first frame, which also takes the place of the two frames before it. The
            values of `sums` are not read then.
    Returns:
        [B, O, 1, H, W] in the dtype of `bias`.
    """
    from common.kernels import rgb_conv_triton as kernels

    return kernels.streaming_tap_sum(taps, bias, sums, first)


def tap_dtype(x: Tensor) -> torch.dtype:
    """The dtype of projections: float32 for float32 activations, else float16.

    float16 has ten fraction bits, so its 27 roundings together are smaller than one rounding to bfloat16.
    """
    return torch.float32 if x.dtype == torch.float32 else torch.float16
