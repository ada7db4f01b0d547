"""Triton kernels of `common.kernels.winograd`, where their operations are described."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from common.kernels.frame_norm_triton import bias_of, require_packed_pixels
from common.kernels.norm_statistics import NormStatistics
from common.kernels.triton_support import launch
from common.kernels.winograd_matrices import INPUT_SCALE, POINTS, WEIGHT_SCALE

TILE_IN, TILE_OUT = 512, 512  # elements of each frame that a program of four warps holds at once
OUT_STAGES = 3  # stages of prefetched loads, because the sums of statistics leave registers for few programs at once
MOST_CHANNELS = 128  # most channels of a program of `_output_kernel`


@triton.jit
def _normed(x_ptr, at, ok, scale_ptr, shift_ptr, channel, inside, SILU: tl.constexpr):
    """The normalised pixels of one frame, after SiLU if SILU."""
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + channel, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + channel, mask=inside, other=0.0)[None, :]
    x = x * scale + shift
    if SILU:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit(do_not_specialize=["pixels", "skip", "first", "begin", "end"])
def _input_kernel(
    out0_ptr, out1_ptr, out2_ptr, out3_ptr, out4_ptr, out5_ptr, x_ptr, scale_ptr, shift_ptr, carried_ptr,
    pixels, skip, first, begin, end, channels, x_b, x_t, carried_t, out_b,
    M: tl.constexpr, NEAR: tl.constexpr, FAR: tl.constexpr, SHRINK: tl.constexpr, SILU: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # `pixel` is an index in the row block. The transformed frames have `skip` pixels before the block. `first`, `begin`
    # and `end` are pixel indices in the picture: the start of the block, and the range to update in `carried`.
    clip = tl.program_id(1).to(tl.int64)
    x_t = x_t.to(tl.int64)  # its multiples exceed 2^31 for 4K frames
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    ok = (pixel < pixels)[:, None] & inside[None, :]
    of_picture = first + pixel
    at = of_picture.to(tl.int64)[:, None] * channels + channel[None, :]
    settled = ok & ((of_picture >= begin) & (of_picture < end))[:, None]
    x_ptr += clip * x_b
    scale_ptr += clip * M * channels
    shift_ptr += clip * M * channels
    carried_ptr += clip * 2 * carried_t

    d0 = tl.load(carried_ptr + at, mask=ok, other=0.0).to(tl.float32)
    d1 = tl.load(carried_ptr + carried_t + at, mask=ok, other=0.0).to(tl.float32)
    d2 = _normed(x_ptr, at, ok, scale_ptr, shift_ptr, channel, inside, SILU) * SHRINK
    d3 = _normed(x_ptr + x_t, at, ok, scale_ptr + channels, shift_ptr + channels, channel, inside, SILU) * SHRINK
    carry = carried_ptr.dtype.element_ty
    kind = out0_ptr.dtype.element_ty
    to = clip * out_b + (skip + pixel).to(tl.int64)[:, None] * channels + channel[None, :]
    if M == 2:  # the points are 0, 1 and -1
        tl.store(carried_ptr + at, d2.to(carry), mask=settled)
        tl.store(carried_ptr + carried_t + at, d3.to(carry), mask=settled)
        tl.store(out0_ptr + to, (d2 - d0).to(kind), mask=ok)
        tl.store(out1_ptr + to, (d2 + d1).to(kind), mask=ok)
        tl.store(out2_ptr + to, (d2 - d1).to(kind), mask=ok)
        tl.store(out3_ptr + to, (d3 - d1).to(kind), mask=ok)
    else:
        scale_ptr += 2 * channels
        shift_ptr += 2 * channels
        d4 = _normed(x_ptr + 2 * x_t, at, ok, scale_ptr, shift_ptr, channel, inside, SILU) * SHRINK
        scale_ptr += channels
        shift_ptr += channels
        d5 = _normed(x_ptr + 3 * x_t, at, ok, scale_ptr, shift_ptr, channel, inside, SILU) * SHRINK
        tl.store(carried_ptr + at, d4.to(carry), mask=settled)
        tl.store(carried_ptr + carried_t + at, d5.to(carry), mask=settled)
        both: tl.constexpr = NEAR * NEAR + FAR * FAR
        times: tl.constexpr = NEAR * NEAR * FAR * FAR
        tl.store(out0_ptr + to, (d4 - both * d2 + times * d0).to(kind), mask=ok)
        even, odd = d4 - FAR * FAR * d2, NEAR * (d3 - FAR * FAR * d1)
        tl.store(out1_ptr + to, (even + odd).to(kind), mask=ok)
        tl.store(out2_ptr + to, (even - odd).to(kind), mask=ok)
        even, odd = d4 - NEAR * NEAR * d2, FAR * (d3 - NEAR * NEAR * d1)
        tl.store(out3_ptr + to, (even + odd).to(kind), mask=ok)
        tl.store(out4_ptr + to, (even - odd).to(kind), mask=ok)
        tl.store(out5_ptr + to, (d5 - both * d3 + times * d1).to(kind), mask=ok)


@triton.jit
def _finish(
    value, out_ptr, x_ptr, at, target, ok, added, shift, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write the values of one frame, and return the differences of the rounded values from `shift`."""
    value += added
    if RESIDUAL:
        value += tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    rounded = value.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + target, rounded, mask=ok)
    away = tl.where(ok, rounded.to(tl.float32) - shift[None, :], 0.0)
    return away


@triton.jit
def _keep(parts_ptr, channel, inside, shift, total, squares, count):
    sums = tl.sum(total, 0)
    deviations = tl.maximum(tl.sum(squares, 0) - sums * sums / count, 0.0)
    tl.store(parts_ptr + channel * 2, shift + sums / count, mask=inside)
    tl.store(parts_ptr + channel * 2 + 1, deviations, mask=inside)


@triton.jit(do_not_specialize=["first", "stop", "skip", "height", "width", "chunk", "chunks"])
def _output_kernel(
    out_ptr, m0_ptr, m1_ptr, m2_ptr, m3_ptr, m4_ptr, m5_ptr, x_ptr, bias_ptr, pending_ptr, parts_ptr,
    first, stop, skip, height, width, channels, chunk, chunks,
    out_b, out_t, out_h, out_w, x_b, x_t, product_b,
    M: tl.constexpr, NEAR: tl.constexpr, FAR: tl.constexpr, GAIN: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PENDING: tl.constexpr, MEASURE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # `first` and `stop` are pixel indices in the picture, the range of the row block. The products have `skip` pixels
    # before the block.
    part, clip = first // chunk + tl.program_id(0), tl.program_id(1).to(tl.int64)
    x_t, out_t = x_t.to(tl.int64), out_t.to(tl.int64)  # their multiples exceed 2^31 for 4K frames
    begin, end = tl.maximum(part * chunk, first), tl.minimum(part * chunk + chunk, stop)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    out_ptr += clip * out_b
    x_ptr += clip * x_b
    m0_ptr += clip * product_b
    m1_ptr += clip * product_b
    m2_ptr += clip * product_b
    m3_ptr += clip * product_b
    m4_ptr += clip * product_b
    m5_ptr += clip * product_b
    added = tl.zeros([CHANNELS], tl.float32)
    if BIAS == 1:
        added += tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    if PENDING:
        added += tl.load(pending_ptr + channel, mask=inside, other=0.0).to(tl.float32)

    total0 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    total1, total2, total3 = total0, total0, total0
    squares0, squares1, squares2, squares3 = total0, total0, total0, total0
    shift0 = tl.zeros([CHANNELS], tl.float32)
    shift1, shift2, shift3 = shift0, shift0, shift0
    if MEASURE:  # sums are taken of differences from (about) the first pixel's values: see frame_norm_triton
        seen = (begin - first + skip).to(tl.int64) * channels + channel
        p0 = tl.load(m0_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p1 = tl.load(m1_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p2 = tl.load(m2_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p3 = tl.load(m3_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        if M == 2:
            shift0 = GAIN * (p0 + p1 + p2) + added
            shift1 = GAIN * (p1 - p2 + p3) + added
        else:
            p4 = tl.load(m4_ptr + seen, mask=inside, other=0.0).to(tl.float32)
            p5 = tl.load(m5_ptr + seen, mask=inside, other=0.0).to(tl.float32)
            shift0 = GAIN * (p0 + p1 + p2 + p3 + p4) + added
            shift1 = GAIN * (NEAR * (p1 - p2) + FAR * (p3 - p4)) + added
            shift2 = GAIN * (NEAR * NEAR * (p1 + p2) + FAR * FAR * (p3 + p4)) + added
            shift3 = GAIN * (NEAR * NEAR * NEAR * (p1 - p2) + FAR * FAR * FAR * (p3 - p4) + p5) + added
        if RESIDUAL:
            seen = begin.to(tl.int64) * channels + channel
            shift0 += tl.load(x_ptr + seen, mask=inside, other=0.0).to(tl.float32)
            shift1 += tl.load(x_ptr + x_t + seen, mask=inside, other=0.0).to(tl.float32)
            if M == 4:
                shift2 += tl.load(x_ptr + 2 * x_t + seen, mask=inside, other=0.0).to(tl.float32)
                shift3 += tl.load(x_ptr + 3 * x_t + seen, mask=inside, other=0.0).to(tl.float32)
            tl.debug_barrier()  # the loop below may overwrite the values of x read here
    for start in tl.range(begin, end, PIXELS, num_stages=STAGES):
        pixel = start + tl.arange(0, PIXELS)
        ok = (pixel < end)[:, None] & inside[None, :]
        at = (pixel - first + skip).to(tl.int64)[:, None] * channels + channel[None, :]
        m0 = tl.load(m0_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m1 = tl.load(m1_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m2 = tl.load(m2_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m3 = tl.load(m3_ptr + at, mask=ok, other=0.0).to(tl.float32)
        near, near_odd = m1 + m2, m1 - m2
        if M == 2:
            value0, value1 = GAIN * (m0 + near), GAIN * (near_odd + m3)
        else:
            m4 = tl.load(m4_ptr + at, mask=ok, other=0.0).to(tl.float32)
            m5 = tl.load(m5_ptr + at, mask=ok, other=0.0).to(tl.float32)
            far, far_odd = m3 + m4, m3 - m4
            value0, value1 = GAIN * (m0 + near + far), GAIN * (NEAR * near_odd + FAR * far_odd)
            value2 = GAIN * (NEAR * NEAR * near + FAR * FAR * far)
            value3 = GAIN * (NEAR * NEAR * NEAR * near_odd + FAR * FAR * FAR * far_odd + m5)
        at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        row, column = pixel // width, pixel % width
        target = row.to(tl.int64) * out_h + column.to(tl.int64) * out_w
        target = target[:, None] + channel[None, :]
        plus = added[None, :]
        if BIAS == 2:
            plus += bias_of(bias_ptr, channel, channels, row, column, 0, height, width, 1, ok, BIAS)
        away = _finish(value0, out_ptr, x_ptr, at, target, ok, plus, shift0, RESIDUAL)
        if MEASURE:
            total0 += away
            squares0 += away * away
        away = _finish(value1, out_ptr + out_t, x_ptr + x_t, at, target, ok, plus, shift1, RESIDUAL)
        if MEASURE:
            total1 += away
            squares1 += away * away
        if M == 4:
            away = _finish(value2, out_ptr + 2 * out_t, x_ptr + 2 * x_t, at, target, ok, plus, shift2, RESIDUAL)
            if MEASURE:
                total2 += away
                squares2 += away * away
            away = _finish(value3, out_ptr + 3 * out_t, x_ptr + 3 * x_t, at, target, ok, plus, shift3, RESIDUAL)
            if MEASURE:
                total3 += away
                squares3 += away * away
    if MEASURE:
        count = (end - begin).to(tl.float32)
        frame = chunks * channels * 2
        parts_ptr += (clip * M * chunks + part) * channels * 2
        _keep(parts_ptr, channel, inside, shift0, total0, squares0, count)
        _keep(parts_ptr + frame, channel, inside, shift1, total1, squares1, count)
        if M == 4:
            _keep(parts_ptr + 2 * frame, channel, inside, shift2, total2, squares2, count)
            _keep(parts_ptr + 3 * frame, channel, inside, shift3, total3, squares3, count)


def transform_input(
    out: Sequence[Tensor], x: Tensor, scale: Tensor, shift: Tensor, silu: bool, carried: Tensor,
    rows: tuple[int, int], settled: tuple[int, int], skip: int,
) -> None:  # fmt: skip
    batch, m, _, width, channels = x.shape
    assert len(out) == m + 2 and all(o.is_contiguous() for o in out), "packed combinations"
    assert carried.stride(0) == 2 * carried.stride(1), "the two frames of a clip follow those of the clip before"
    require_packed_pixels(x, carried)
    wide = triton.next_power_of_2(channels)
    per_program, pixels = max(1, TILE_IN // wide), (rows[1] - rows[0]) * width
    near, far = _near_far(m)
    launch(
        _input_kernel, (triton.cdiv(pixels, per_program), batch),
        *_six(out), x, scale, shift, carried,
        pixels, skip * width, rows[0] * width, settled[0] * width, settled[1] * width, channels,
        x.stride(0), x.stride(1), carried.stride(1), out[0].stride(0),
        M=m, NEAR=near, FAR=far, SHRINK=INPUT_SCALE, SILU=silu, PIXELS=per_program, CHANNELS=wide, num_warps=4,
    )  # fmt: skip


def transform_output(
    out: Tensor, products: Sequence[Tensor], rows: tuple[int, int], skip: int, bias: Tensor | None, x: Tensor | None,
    deferred: Tensor | None, statistics: NormStatistics | None,
) -> None:  # fmt: skip
    batch, m, _, width, channels = out.shape
    assert len(products) == m + 2 and all(p.is_contiguous() for p in products), "packed products"
    other = out if x is None else x
    if x is not None:
        require_packed_pixels(x)
    wide = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    first, stop = rows[0] * width, rows[1] * width
    chunk = max(1, TILE_OUT // wide) * 16 if statistics is None else statistics.chunk
    assert statistics is None or first % chunk == 0, "blocks begin where chunks do"
    parts = out if statistics is None else statistics.parts
    chunks = 1 if statistics is None else statistics.parts.shape[2]
    kind = 0 if bias is None else 1 if bias.ndim == 1 else 2
    grid = (triton.cdiv(stop, chunk) - first // chunk, batch, triton.cdiv(channels, wide))
    near, far = _near_far(m)
    launch(
        _output_kernel, grid,
        out, *_six(products), other, out if bias is None else bias, out if deferred is None else deferred, parts,
        first, stop, skip * width, out.shape[2], width, channels, chunk, chunks,
        *out.stride()[:4], other.stride(0), other.stride(1), products[0].stride(0),
        M=m, NEAR=near, FAR=far, GAIN=1 / (INPUT_SCALE * WEIGHT_SCALE),
        BIAS=kind, RESIDUAL=x is not None, PENDING=deferred is not None, MEASURE=statistics is not None,
        PIXELS=max(1, TILE_OUT // wide), CHANNELS=wide, STAGES=OUT_STAGES, num_warps=4,
    )  # fmt: skip


def _six(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Six tensors for the kernels' parameters; with F(2, 3), which has four, the kernels do not use the last two."""
    return [*tensors, tensors[0], tensors[0]][:6]


def _near_far(m: int) -> tuple[float, float]:
    """The absolute values of the nonzero points, equal for F(2, 3)."""
    return POINTS[m][1], POINTS[m][-2]
