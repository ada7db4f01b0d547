"""Triton kernels behind `common.kernels.minimal_filter`: see there for what they compute."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from common.kernels.frame_norm import Moments
from common.kernels.frame_norm_triton import bias_of, require_packed_pixels
from common.kernels.minimal_filter import FAR, GIVEN, NEAR, SHRINK, TAKEN, WEIGHT_SHRINK

TILE_IN, TILE_OUT = 512, 512  # elements of each frame that a program of four warps holds at once
MOST_CHANNELS = 128  # of a program that takes moments


@triton.jit
def _input_kernel(
    out_ptr, x_ptr, scale_ptr, shift_ptr, carried_ptr,
    pixels, first, begin, end, channels, x_b, x_t, carried_t, product,
    NEAR: tl.constexpr, FAR: tl.constexpr, SHRINK: tl.constexpr, SILU: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Pixels count from the band's first one; first, begin and end (of what is settled) from the picture's.
    clip = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    ok = (pixel < pixels)[:, None] & inside[None, :]
    of_picture = first + pixel
    at = of_picture.to(tl.int64)[:, None] * channels + channel[None, :]
    settled = ok & ((of_picture >= begin) & (of_picture < end))[:, None]
    x_ptr += clip * x_b
    scale_ptr += clip * 4 * channels
    shift_ptr += clip * 4 * channels
    carried_ptr += clip * 2 * carried_t
    out_ptr += clip * pixels * channels

    d0 = tl.load(carried_ptr + at, mask=ok, other=0.0).to(tl.float32)
    d1 = tl.load(carried_ptr + carried_t + at, mask=ok, other=0.0).to(tl.float32)
    d2 = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    d3 = tl.load(x_ptr + x_t + at, mask=ok, other=0.0).to(tl.float32)
    d4 = tl.load(x_ptr + 2 * x_t + at, mask=ok, other=0.0).to(tl.float32)
    d5 = tl.load(x_ptr + 3 * x_t + at, mask=ok, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + channel, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + channel, mask=inside, other=0.0)[None, :]
    d2 = d2 * scale + shift
    scale = tl.load(scale_ptr + channels + channel, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + channels + channel, mask=inside, other=0.0)[None, :]
    d3 = d3 * scale + shift
    scale = tl.load(scale_ptr + 2 * channels + channel, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + 2 * channels + channel, mask=inside, other=0.0)[None, :]
    d4 = d4 * scale + shift
    scale = tl.load(scale_ptr + 3 * channels + channel, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + 3 * channels + channel, mask=inside, other=0.0)[None, :]
    d5 = d5 * scale + shift
    if SILU:
        d2 = d2 / (1.0 + tl.exp(-d2))
        d3 = d3 / (1.0 + tl.exp(-d3))
        d4 = d4 / (1.0 + tl.exp(-d4))
        d5 = d5 / (1.0 + tl.exp(-d5))
    d2, d3, d4, d5 = d2 * SHRINK, d3 * SHRINK, d4 * SHRINK, d5 * SHRINK
    kind = carried_ptr.dtype.element_ty
    tl.store(carried_ptr + at, d4.to(kind), mask=settled)
    tl.store(carried_ptr + carried_t + at, d5.to(kind), mask=settled)

    kind = out_ptr.dtype.element_ty
    to = out_ptr + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    both: tl.constexpr = NEAR * NEAR + FAR * FAR
    times: tl.constexpr = NEAR * NEAR * FAR * FAR
    tl.store(to, (d4 - both * d2 + times * d0).to(kind), mask=ok)
    even, odd = d4 - FAR * FAR * d2, NEAR * (d3 - FAR * FAR * d1)
    tl.store(to + product, (even + odd).to(kind), mask=ok)
    tl.store(to + 2 * product, (even - odd).to(kind), mask=ok)
    even, odd = d4 - NEAR * NEAR * d2, FAR * (d3 - NEAR * NEAR * d1)
    tl.store(to + 3 * product, (even + odd).to(kind), mask=ok)
    tl.store(to + 4 * product, (even - odd).to(kind), mask=ok)
    tl.store(to + 5 * product, (d5 - both * d3 + times * d1).to(kind), mask=ok)


@triton.jit
def _finish(
    value, out_ptr, x_ptr, at, target, ok, added, shift, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """One frame's values written, and what they add to the sums of deviations and of squares."""
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


@triton.jit
def _output_kernel(
    out_ptr, m0_ptr, m1_ptr, m2_ptr, m3_ptr, m4_ptr, m5_ptr, x_ptr, bias_ptr, pending_ptr, parts_ptr,
    first, stop, skip, height, width, channels, chunk, chunks,
    out_b, out_t, out_h, out_w, x_b, x_t, product_b,
    NEAR: tl.constexpr, FAR: tl.constexpr, GAIN: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PENDING: tl.constexpr, MEASURE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # first, stop: pixels of the picture, the band's; skip: pixels of the products before the band's first one.
    part, clip = first // chunk + tl.program_id(0), tl.program_id(1).to(tl.int64)
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
    if MEASURE:  # sums are shifted by (about) the first pixel's products: see frame_norm_triton
        seen = (begin - first + skip).to(tl.int64) * channels + channel
        p0 = tl.load(m0_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p1 = tl.load(m1_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p2 = tl.load(m2_ptr + seen, mask=inside, other=0.0).to(tl.float32)
        p3 = tl.load(m3_ptr + seen, mask=inside, other=0.0).to(tl.float32)
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
            shift2 += tl.load(x_ptr + 2 * x_t + seen, mask=inside, other=0.0).to(tl.float32)
            shift3 += tl.load(x_ptr + 3 * x_t + seen, mask=inside, other=0.0).to(tl.float32)
            tl.debug_barrier()  # what was read here may be overwritten below
    for start in range(begin, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        ok = (pixel < end)[:, None] & inside[None, :]
        at = (pixel - first + skip).to(tl.int64)[:, None] * channels + channel[None, :]
        m0 = tl.load(m0_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m1 = tl.load(m1_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m2 = tl.load(m2_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m3 = tl.load(m3_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m4 = tl.load(m4_ptr + at, mask=ok, other=0.0).to(tl.float32)
        m5 = tl.load(m5_ptr + at, mask=ok, other=0.0).to(tl.float32)
        near, near_odd = m1 + m2, m1 - m2
        far, far_odd = m3 + m4, m3 - m4
        at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        row, column = pixel // width, pixel % width
        target = row.to(tl.int64) * out_h + column.to(tl.int64) * out_w
        target = target[:, None] + channel[None, :]
        plus = added[None, :]
        if BIAS == 2:
            plus += bias_of(bias_ptr, channel, channels, row, column, 0, height, width, 1, ok, BIAS)
        away = _finish(GAIN * (m0 + near + far), out_ptr, x_ptr, at, target, ok, plus, shift0, RESIDUAL)
        if MEASURE:
            total0 += away
            squares0 += away * away
        value = GAIN * (NEAR * near_odd + FAR * far_odd)
        away = _finish(value, out_ptr + out_t, x_ptr + x_t, at, target, ok, plus, shift1, RESIDUAL)
        if MEASURE:
            total1 += away
            squares1 += away * away
        value = GAIN * (NEAR * NEAR * near + FAR * FAR * far)
        away = _finish(value, out_ptr + 2 * out_t, x_ptr + 2 * x_t, at, target, ok, plus, shift2, RESIDUAL)
        if MEASURE:
            total2 += away
            squares2 += away * away
        value = GAIN * (NEAR * NEAR * NEAR * near_odd + FAR * FAR * FAR * far_odd + m5)
        away = _finish(value, out_ptr + 3 * out_t, x_ptr + 3 * x_t, at, target, ok, plus, shift3, RESIDUAL)
        if MEASURE:
            total3 += away
            squares3 += away * away
    if MEASURE:
        count = (end - begin).to(tl.float32)
        frame = chunks * channels * 2
        parts_ptr += (clip * 4 * chunks + part) * channels * 2
        _keep(parts_ptr, channel, inside, shift0, total0, squares0, count)
        _keep(parts_ptr + frame, channel, inside, shift1, total1, squares1, count)
        _keep(parts_ptr + 2 * frame, channel, inside, shift2, total2, squares2, count)
        _keep(parts_ptr + 3 * frame, channel, inside, shift3, total3, squares3, count)


def filter_input(
    out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, silu: bool, carried: Tensor,
    rows: tuple[int, int], settled: tuple[int, int],
) -> None:  # fmt: skip
    batch, frames, _, width, channels = x.shape
    assert frames == GIVEN and out.is_contiguous() and carried.is_contiguous(), "four frames into packed ones"
    require_packed_pixels(x)
    wide = triton.next_power_of_2(channels)
    per_program, pixels = max(1, TILE_IN // wide), (rows[1] - rows[0]) * width
    _input_kernel[(triton.cdiv(pixels, per_program), batch)](
        out, x, scale, shift, carried, pixels, rows[0] * width, settled[0] * width, settled[1] * width, channels,
        x.stride(0), x.stride(1), carried.stride(1), out.stride(0),
        NEAR=NEAR, FAR=FAR, SHRINK=SHRINK, SILU=silu, PIXELS=per_program, CHANNELS=wide, num_warps=4,
    )  # fmt: skip


def filter_output(
    out: Tensor, products: Sequence[Tensor], rows: tuple[int, int], skip: int, bias: Tensor | None, x: Tensor | None,
    pending: Tensor | None, moments: Moments | None,
) -> None:  # fmt: skip
    batch, _, _, width, channels = out.shape
    assert len(products) == TAKEN and all(p.is_contiguous() for p in products), "six packed products"
    other = out if x is None else x
    if x is not None:
        require_packed_pixels(x)
    wide = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    first, stop = rows[0] * width, rows[1] * width
    chunk = max(1, TILE_OUT // wide) * 16 if moments is None else moments.chunk
    assert moments is None or first % chunk == 0, "bands begin where chunks do"
    parts = out if moments is None else moments.parts
    chunks = 1 if moments is None else moments.parts.shape[2]
    kind = 0 if bias is None else 1 if bias.ndim == 1 else 2
    grid = (triton.cdiv(stop, chunk) - first // chunk, batch, triton.cdiv(channels, wide))
    _output_kernel[grid](
        out, *products, other, out if bias is None else bias, out if pending is None else pending, parts,
        first, stop, skip * width, out.shape[2], width, channels, chunk, chunks,
        *out.stride()[:4], other.stride(0), other.stride(1), products[0].stride(0),
        NEAR=NEAR, FAR=FAR, GAIN=1 / (SHRINK * WEIGHT_SHRINK),
        BIAS=kind, RESIDUAL=x is not None, PENDING=pending is not None, MEASURE=moments is not None,
        PIXELS=max(1, TILE_OUT // wide), CHANNELS=wide, num_warps=4,
    )  # fmt: skip
