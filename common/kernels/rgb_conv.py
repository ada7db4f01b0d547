"""3x3x3 convolutions between pixels (three channels) and wide activations, for which library kernels waste most work.

Into few channels, every pixel is first projected onto all taps at once (a matrix product), and the shifted projections
are summed: the wide activation is read once, and what is carried between slices is the projections.
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from common.kernels.triton_support import use_triton

MOST_RGB_CHANNELS = 4
ALIGNED = 16  # channels that tensor cores take at once


def conv_from_rgb(x: Tensor, weight: Tensor, pad_rows: bool = True) -> Tensor:
    """Convolution of few channels, zero padding in width, none in time, no bias.

    Args:
        x: [B, T, H, W, C], C <= 4. weight: [O, C, k, 3, 3].
        pad_rows: zero padding in height; False: the first and the last row of x are the neighbours of the others.
    Returns:
        [B, T - k + 1, H or H - 2, W, O]
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
    """`conv_from_rgb` as a 2-D convolution: the frames that an output frame sees stand side by side in the channels.

    Zeros fill the channels up to what the library's kernels for tensor cores take.
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
    """Should a last convolution go through `tap_projection` and `streaming_tap_sum`?"""
    return channels_out <= MOST_RGB_CHANNELS and use_triton(x) and x.shape[-1] <= 256


def tap_projection(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> None:
    """SiLU(x * scale + shift) of every pixel, times every tap of a 3x3x3 convolution.

    Args:
        out: [B, 27 * O, T, H, W] float16 or float32, packed in height and width; taps ordered (time, height, width, O).
        x: [B, T, H, W, C]; scale, shift: [B * T, C], its norm, see `frame_norm.norm_coefficients`.
        weight: [O, C, 3, 3, 3], O <= 4.
    """
    from common.kernels import rgb_conv_triton as kernels

    kernels.tap_projection(out, x, scale, shift, weight)


def new_tap_sums(taps: Tensor) -> Tensor:
    """Room for what `streaming_tap_sum` carries: [B, 2, O, H, W] float32, for projections [B, 27 * O, 1, H, W]."""
    batch, planes, _, height, width = taps.shape
    return taps.new_empty(batch, 2, planes // 27, height, width, dtype=torch.float32)


def streaming_tap_sum(taps: Tensor, bias: Tensor, sums: Tensor, first: bool) -> Tensor:
    """One frame of the convolution's result, and what its input adds to the two frames after it.

    Args:
        taps: [B, 27 * O, 1, H, W] the projections of the new frame alone.
        sums: of `new_tap_sums`, changed: what the frames so far add to the next frame, and to the one after that.
        first: this is the clip's first frame, which stands for its own past; `sums` may hold anything.
    Returns:
        [B, O, 1, H, W] in the dtype of `bias`.
    """
    from common.kernels import rgb_conv_triton as kernels

    return kernels.streaming_tap_sum(taps, bias, sums, first)


def tap_dtype(x: Tensor) -> torch.dtype:
    """Half precision for half-precision activations: with ten bits, 27 roundings stay below bfloat16's one."""
    return torch.float32 if x.dtype == torch.float32 else torch.float16
