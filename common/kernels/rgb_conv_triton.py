"""Triton kernels of `common.kernels.rgb_conv`, where their operations are described."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.triton_support import launch

PIXELS = 128


@triton.jit(do_not_specialize=["frames", "height", "width"])
def _from_rgb_kernel(
    out_ptr, x_ptr, weight_ptr, frames, height, width, channels, channels_out, taps, x_b, x_t,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, TAPS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    picture = tl.program_id(1).to(tl.int64)
    x_ptr += (picture // frames) * x_b + (picture % frames) * x_t
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column = pixel // width, pixel % width
    tap, to = tl.arange(0, TAPS), tl.arange(0, OUT)
    channel, place = tap % channels, tap // channels
    back, down, right = place // 9, place // 3 % 3 - 1, place % 3 - 1
    rows, columns = row[:, None] + down[None, :], column[:, None] + right[None, :]
    ok = (tap < taps)[None, :] & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    at = back.to(tl.int64)[None, :] * x_t + (rows * width + columns).to(tl.int64) * channels + channel[None, :]
    patch = tl.load(x_ptr + at, mask=ok, other=0.0)
    inside = (tap < taps)[:, None] & (to < channels_out)[None, :]
    weight = tl.load(weight_ptr + tap[:, None] * channels_out + to[None, :], mask=inside, other=0.0)
    y = tl.dot(patch, weight, input_precision=PRECISION)
    out_ptr += (picture * height * width + pixel)[:, None] * channels_out + to[None, :]
    wanted = (pixel < height * width)[:, None] & (to < channels_out)[None, :]
    tl.store(out_ptr, y.to(out_ptr.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=["frames", "pixels"])
def _project_kernel(
    out_ptr, x_ptr, scale_ptr, shift_ptr, weight_ptr, frames, pixels, channels, planes,
    out_b, out_plane, out_t, x_b, x_t,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    picture = tl.program_id(1).to(tl.int64)
    clip, frame = picture // frames, picture % frames
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel, plane = tl.arange(0, CHANNELS), tl.arange(0, PLANES)
    inside = channel < channels
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    x = tl.load(x_ptr + clip * x_b + frame * x_t + at, mask=(pixel < pixels)[:, None] & inside[None, :], other=0.0)
    scale = tl.load(scale_ptr + picture * channels + channel, mask=inside, other=0.0)
    shift = tl.load(shift_ptr + picture * channels + channel, mask=inside, other=0.0)
    value = x.to(tl.float32) * scale[None, :] + shift[None, :]
    value = value / (1.0 + tl.exp(-value))
    known = inside[:, None] & (plane < planes)[None, :]
    weight = tl.load(weight_ptr + channel[:, None] * planes + plane[None, :], mask=known, other=0.0)
    y = tl.dot(value.to(weight.dtype), weight, input_precision=PRECISION)
    to = out_ptr + clip * out_b + frame * out_t + plane.to(tl.int64)[None, :] * out_plane + pixel[:, None]
    tl.store(to, y.to(out_ptr.dtype.element_ty), mask=(pixel < pixels)[:, None] & (plane < planes)[None, :])


@triton.jit
def _sum_taps_kernel(
    out_ptr, taps_ptr, bias_ptr, sums_ptr, height, width, few, taps_b, taps_plane,
    FIRST: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    clip, colour = tl.program_id(1).to(tl.int64), tl.program_id(2)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column = pixel // width, pixel % width
    pixels = height * width
    inside = pixel < pixels
    oldest = tl.zeros([PIXELS], tl.float32)
    middle = tl.zeros([PIXELS], tl.float32)
    newest = tl.zeros([PIXELS], tl.float32)
    for tap in tl.static_range(27):
        down, right = tap // 3 % 3 - 1, tap % 3 - 1
        ok = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        plane = clip * taps_b + (tap * few + colour).to(tl.int64) * taps_plane
        value = tl.load(taps_ptr + plane + pixel + down * width + right, mask=ok, other=0.0).to(tl.float32)
        if tap < 9:
            oldest += value
        elif tap < 18:
            middle += value
        else:
            newest += value
    total = newest + tl.load(bias_ptr + colour).to(tl.float32)
    next_ptr = sums_ptr + (clip * 2 * few + colour) * pixels + pixel
    last_ptr = next_ptr + pixels.to(tl.int64) * few
    if FIRST:
        total += middle + oldest
        middle += oldest
    else:
        total += tl.load(next_ptr, mask=inside, other=0.0)
        middle += tl.load(last_ptr, mask=inside, other=0.0)
    tl.store(next_ptr, middle, mask=inside)
    tl.store(last_ptr, oldest, mask=inside)
    tl.store(out_ptr + (clip * few + colour) * pixels + pixel, total.to(out_ptr.dtype.element_ty), mask=inside)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def _pixels(x: Tensor) -> int:
    """Pixels per program; half as many for float32, to fit the 99 KiB of shared memory of sm_86, sm_89 and sm_120."""
    return PIXELS // 2 if x.dtype == torch.float32 else PIXELS


def conv_from_rgb(x: Tensor, weight: Tensor) -> Tensor:
    """See `common.kernels.rgb_conv.conv_from_rgb`."""
    (batch, frames, height, width, channels), (outer, _, kernel, _, _) = x.shape, weight.shape
    assert x.stride(2) == width * channels and x.stride(4) == 1, "pixels must be packed"
    frames = frames - kernel + 1
    taps = weight.permute(2, 3, 4, 1, 0).reshape(-1, outer).contiguous()
    out = x.new_empty(batch, frames, height, width, outer)
    launch(
        _from_rgb_kernel, (triton.cdiv(height * width, _pixels(x)), batch * frames),
        out, x, taps, frames, height, width, channels, outer, len(taps), x.stride(0), x.stride(1),
        PRECISION=_precision(x), PIXELS=_pixels(x), TAPS=max(16, triton.next_power_of_2(len(taps))),
        OUT=max(16, triton.next_power_of_2(outer)), num_warps=8,
    )  # fmt: skip
    return out


def tap_projection(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> None:
    """See `common.kernels.rgb_conv.tap_projection`."""
    batch, frames, height, width, channels = x.shape
    planes = weight.permute(1, 2, 3, 4, 0).reshape(channels, -1).to(x.dtype).contiguous()  # C (27 O)
    assert out.stride(3) == width and out.stride(4) == 1, "pixels must be packed"
    launch(
        _project_kernel, (triton.cdiv(height * width, _pixels(x)), batch * frames),
        out, x, scale, shift, planes, frames, height * width, channels, planes.shape[1],
        out.stride(0), out.stride(1), out.stride(2), x.stride(0), x.stride(1), PRECISION=_precision(x),
        PIXELS=_pixels(x), CHANNELS=max(16, triton.next_power_of_2(channels)),
        PLANES=max(16, triton.next_power_of_2(planes.shape[1])), num_warps=8,
    )  # fmt: skip


def streaming_tap_sum(taps: Tensor, bias: Tensor, sums: Tensor, first: bool) -> Tensor:
    """See `common.kernels.rgb_conv.streaming_tap_sum`."""
    batch, planes, _, height, width = taps.shape
    assert taps.stride(3) == width and taps.stride(4) == 1 and planes == 27 * len(bias), "pixels must be packed"
    out = bias.new_empty(batch, len(bias), 1, height, width)
    launch(
        _sum_taps_kernel, (triton.cdiv(height * width, 1024), batch, len(bias)),
        out, taps, bias, sums, height, width, len(bias), taps.stride(0), taps.stride(1),
        FIRST=first, PIXELS=1024, num_warps=4,
    )  # fmt: skip
    return out
