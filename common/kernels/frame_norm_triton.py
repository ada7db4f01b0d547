"""Triton kernels of `common.kernels.frame_norm`, where their operations are described.

A frame is cut into chunks of pixels with one program per chunk, so that even one frame occupies the device. Sums are of
differences from the chunk's first pixel, as sums of squares lose the variance of an activation with a large mean.
"""

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.norm_statistics import Norm, NormStatistics
from common.kernels.triton_support import launch

TILE = 4096  # elements that a program of four warps holds at once
PROGRAMS = 1056  # eight programs for each of the 132 multiprocessors of an H100
MOST_CHUNKS, MOST_PARTS = 1024, 2**18  # parts: chunks times channels
CHUNKS = 256  # number of chunks that a program of `_coefficients_kernel` reads at once


@triton.jit
def bias_of(bias_ptr, channel, channels, row, column, frame, height, width, phases, ok, KIND: tl.constexpr):
    """KIND 1: one bias per channel. KIND 2: a table indexed by phase and border, see `add_phase_bias`."""
    if KIND == 1:
        bias = tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    else:
        of_row = tl.where(row == 0, 0, tl.where(row == height - 1, 3, 2 - row % 2))
        of_column = tl.where(column == 0, 0, tl.where(column == width - 1, 3, 2 - column % 2))
        entry = ((frame % phases) * 4 + of_row) * 4 + of_column
        bias = tl.load(bias_ptr + entry[:, None] * channels + channel[None, :], mask=ok, other=0.0).to(tl.float32)
    return bias


# Numbers that depend on the picture's size are not specialised, or Triton would compile variants of a kernel for them.
# Channels and strides are specialised, because they tell the compiler how pointers are aligned.
@triton.jit(do_not_specialize=["frames", "height", "width", "chunk", "chunks", "phases"])
def _add_kernel(
    out_ptr, y_ptr, x_ptr, bias_ptr, pending_ptr, parts_ptr,
    frames, height, width, channels, chunk, chunks, phases,
    out_b, out_t, out_h, out_w, y_b, y_t, x_b, x_t,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PENDING: tl.constexpr, WRITE: tl.constexpr, MEASURE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, picture = tl.program_id(0), tl.program_id(1).to(tl.int64)
    clip, frame = picture // frames, picture % frames
    y_ptr += clip * y_b + frame * y_t
    x_ptr += clip * x_b + frame * x_t
    out_ptr += clip * out_b + frame * out_t
    pixels = height * width
    first, stop = part * chunk, tl.minimum(part * chunk + chunk, pixels)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels

    shift = tl.zeros([CHANNELS], tl.float32)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    squares = tl.zeros([PIXELS, CHANNELS], tl.float32)
    if MEASURE:
        shift += tl.load(y_ptr + first.to(tl.int64) * channels + channel, mask=inside, other=0.0).to(tl.float32)
    for start in range(first, stop, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        ok = (pixel < stop)[:, None] & inside[None, :]
        at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(y_ptr + at, mask=ok, other=0.0).to(tl.float32)
        row, column = pixel // width, pixel % width
        if BIAS > 0:
            value += bias_of(
                bias_ptr, channel, channels, row, column, frame.to(tl.int32), height, width, phases, ok, BIAS
            )
        if RESIDUAL:
            value += tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
        if PENDING:
            value += tl.load(pending_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
        if WRITE:
            target = row.to(tl.int64) * out_h + column.to(tl.int64) * out_w
            rounded = value.to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + target[:, None] + channel[None, :], rounded, mask=ok)
            value = rounded.to(tl.float32)
        if MEASURE:
            away = tl.where(ok, value - shift[None, :], 0.0)
            total += away
            squares += away * away
    if MEASURE:
        count = (stop - first).to(tl.float32)
        sums = tl.sum(total, 0)
        deviations = tl.maximum(tl.sum(squares, 0) - sums * sums / count, 0.0)
        to = parts_ptr + ((picture * chunks + part) * channels + channel) * 2
        tl.store(to, shift + sums / count, mask=inside)
        tl.store(to + 1, deviations, mask=inside)


@triton.jit(do_not_specialize=["frames", "parts_b", "parts_t", "of_group", "pixels", "chunk", "chunks"])
def _coefficients_kernel(
    scale_ptr, shift_ptr, parts_ptr, weight_ptr, bias_ptr, pending_ptr, frames, parts_b, parts_t,
    channels, of_group, pixels, chunk, chunks, eps,
    PENDING: tl.constexpr, STATISTICS: tl.constexpr, CHUNKS: tl.constexpr, OF_GROUP: tl.constexpr,
):  # fmt: skip
    # STATISTICS: write the group's count, mean and sum of squared deviations to scale_ptr; shift_ptr is not used.
    picture, group = tl.program_id(0), tl.program_id(1)
    parts_ptr += (picture // frames).to(tl.int64) * parts_b + (picture % frames).to(tl.int64) * parts_t
    member = tl.arange(0, OF_GROUP)
    channel = group * of_group + member
    inside = member < of_group
    deferred = tl.zeros([OF_GROUP], tl.float32)
    if PENDING:
        deferred += tl.load(pending_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    everything = (pixels * of_group).to(tl.float32)
    sums = tl.zeros([CHUNKS, OF_GROUP], tl.float32)
    for start in range(0, chunks, CHUNKS):
        part = start + tl.arange(0, CHUNKS)
        ok = (part < chunks)[:, None] & inside[None, :]
        mean = tl.load(parts_ptr + (part[:, None] * channels + channel[None, :]) * 2, mask=ok, other=0.0)
        count = tl.minimum(chunk, pixels - part * chunk)[:, None].to(tl.float32)
        sums += tl.where(ok, (mean + deferred[None, :]) * count, 0.0)
    centre = tl.sum(tl.sum(sums, 0), 0) / everything
    squares = tl.zeros([CHUNKS, OF_GROUP], tl.float32)
    for start in range(0, chunks, CHUNKS):
        part = start + tl.arange(0, CHUNKS)
        ok = (part < chunks)[:, None] & inside[None, :]
        at = parts_ptr + (part[:, None] * channels + channel[None, :]) * 2
        away = tl.load(at, mask=ok, other=0.0) + deferred[None, :] - centre
        count = tl.minimum(chunk, pixels - part * chunk)[:, None].to(tl.float32)
        squares += tl.where(ok, tl.load(at + 1, mask=ok, other=0.0) + count * away * away, 0.0)
    deviations = tl.sum(tl.sum(squares, 0), 0)
    if STATISTICS:
        to = scale_ptr + (picture.to(tl.int64) * tl.num_programs(1) + group) * 3
        tl.store(to, everything)
        tl.store(to + 1, centre)
        tl.store(to + 2, deviations)
        return
    variance = deviations / everything
    scale = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    shift = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32) + (deferred - centre) * scale
    to = picture.to(tl.int64) * channels + channel
    tl.store(scale_ptr + to, scale, mask=inside)
    tl.store(shift_ptr + to, shift, mask=inside)


@triton.jit(do_not_specialize=["blocks", "step", "of_group"])
def _combine_kernel(
    scale_ptr, shift_ptr, blocks_ptr, weight_ptr, bias_ptr, pending_ptr, blocks, step, channels, of_group, eps,
    PENDING: tl.constexpr, OF_GROUP: tl.constexpr,
):  # fmt: skip
    picture, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks_ptr += (picture * tl.num_programs(1) + group) * 3
    everything = 0.0
    total = 0.0
    for block in range(blocks):
        count = tl.load(blocks_ptr + block * step)
        everything += count
        total += count * tl.load(blocks_ptr + block * step + 1)
    centre = total / everything
    squares = 0.0
    for block in range(blocks):
        away = tl.load(blocks_ptr + block * step + 1) - centre
        squares += tl.load(blocks_ptr + block * step + 2) + tl.load(blocks_ptr + block * step) * away * away
    member = tl.arange(0, OF_GROUP)
    channel = group * of_group + member
    inside = member < of_group
    away = -centre
    if PENDING:
        away += tl.load(pending_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(squares / everything + eps)
    shift = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32) + away * scale
    tl.store(scale_ptr + picture * channels + channel, scale, mask=inside)
    tl.store(shift_ptr + picture * channels + channel, shift, mask=inside)


@triton.jit(do_not_specialize=["frames", "pixels"])
def _apply_kernel(
    out_ptr, x_ptr, scale_ptr, shift_ptr, frames, pixels, channels, out_b, out_t, out_w, x_b, x_t,
    SILU: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    picture = tl.program_id(1).to(tl.int64)
    clip, frame = picture // frames, picture % frames
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    ok = (pixel < pixels)[:, None] & inside[None, :]
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    scale = tl.load(scale_ptr + picture * channels + channel, mask=inside, other=0.0)
    shift = tl.load(shift_ptr + picture * channels + channel, mask=inside, other=0.0)
    value = tl.load(x_ptr + clip * x_b + frame * x_t + at, mask=ok, other=0.0).to(tl.float32)
    value = value * scale[None, :] + shift[None, :]
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    to = clip * out_b + frame * out_t + pixel.to(tl.int64)[:, None] * out_w + channel[None, :]
    tl.store(out_ptr + to, value.to(out_ptr.dtype.element_ty), mask=ok)


def _tile(channels: int) -> dict[str, int]:
    wide = triton.next_power_of_2(channels)
    return {"PIXELS": max(1, TILE // wide), "CHANNELS": wide}


def _run_add(
    out: Tensor, y: Tensor, bias: Tensor | None, kind: int, x: Tensor | None, deferred: Tensor | None,
    write: bool, measure: bool,
) -> NormStatistics | None:  # fmt: skip
    batch, frames, height, width, channels = y.shape
    require_packed_pixels(y, *(() if x is None else (x,)))
    tile, pixels = _tile(channels), height * width
    most = min(MOST_CHUNKS, MOST_PARTS // tile["CHANNELS"], max(1, PROGRAMS // (batch * frames)))
    chunk = triton.cdiv(triton.cdiv(pixels, most), tile["PIXELS"]) * tile["PIXELS"]
    chunks = triton.cdiv(pixels, chunk)
    parts = y.new_empty(batch, frames, chunks, channels, 2, dtype=torch.float32) if measure else y
    other = y if x is None else x
    launch(
        _add_kernel, (chunks, batch * frames),
        out, y, other, y if bias is None else bias, y if deferred is None else deferred, parts,
        frames, height, width, channels, chunk, chunks, 1 if bias is None or kind != 2 else bias.shape[0],
        *out.stride()[:4], y.stride(0), y.stride(1), other.stride(0), other.stride(1),
        BIAS=kind, RESIDUAL=x is not None, PENDING=deferred is not None, WRITE=write, MEASURE=measure, **tile,
        num_warps=4,
    )  # fmt: skip
    return NormStatistics(parts, chunk, pixels) if measure else None


def require_packed_pixels(*tensors: Tensor) -> None:
    """Assert that the pixels of each frame of [B, T, H, W, C] are contiguous; frames and clips may have any stride."""
    for x in tensors:
        _, _, _, width, channels = x.shape
        assert x.stride(4) == 1 and x.stride(3) == channels and x.stride(2) == width * channels, "pixels must be packed"


def measure(x: Tensor) -> NormStatistics:
    """The statistics of x [B, T, H, W, C]."""
    return cast(NormStatistics, _run_add(x, x, None, 0, None, None, write=False, measure=True))


def add(
    out: Tensor, y: Tensor, bias: Tensor | None, x: Tensor | None, deferred: Tensor | None, measure: bool
) -> NormStatistics | None:
    """out = y + bias + x + deferred. Returns the statistics of out if `measure`, else None."""
    return _run_add(out, y, bias, int(bias is not None), x, deferred, write=True, measure=measure)


def add_table(out: Tensor, y: Tensor, table: Tensor, measure: bool) -> NormStatistics | None:
    """out = y + table[frame % Z, row class, column class]. Returns the statistics of out if `measure`, else None."""
    return _run_add(out, y, table.contiguous(), 2, None, None, write=True, measure=measure)


def coefficients(x: Tensor, statistics: NormStatistics, norm: Norm, deferred: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scale, shift), float32 [B * T, C] each: x * scale + shift is the norm of x + deferred. `statistics` are of x."""
    scale = x.new_empty(x.shape[0] * x.shape[1], x.shape[-1], dtype=torch.float32)
    shift = torch.empty_like(scale)
    _run_coefficients(scale, shift, x, statistics, norm, deferred, False)
    return scale, shift


def group_statistics(x: Tensor, statistics: NormStatistics, norm: Norm, deferred: Tensor | None) -> Tensor:
    """See `common.kernels.frame_norm.group_statistics`; computed from the statistics of chunks."""
    out = x.new_empty(x.shape[0] * x.shape[1], norm.groups, 3, dtype=torch.float32)
    _run_coefficients(out, out, x, statistics, norm, deferred, True)
    return out


def _run_coefficients(
    out: Tensor, shift: Tensor, x: Tensor, statistics: NormStatistics, norm: Norm, deferred: Tensor | None, group: bool
) -> None:
    parts, channels = statistics.parts, x.shape[-1]
    of_group = channels // norm.groups
    launch(
        _coefficients_kernel, (x.shape[0] * x.shape[1], norm.groups),
        out, shift, parts, norm.weight, norm.bias, norm.weight if deferred is None else deferred, x.shape[1],
        parts.stride(0), parts.stride(1), channels, of_group, statistics.pixels, statistics.chunk, parts.shape[2],
        norm.eps, PENDING=deferred is not None, STATISTICS=group,
        CHUNKS=CHUNKS, OF_GROUP=triton.next_power_of_2(of_group), num_warps=4,
    )  # fmt: skip


def combine(blocks: Tensor, norm: Norm, deferred: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `common.kernels.frame_norm.combine_statistics`."""
    count, pictures, groups, _ = blocks.shape
    assert blocks[0].is_contiguous(), "each block's statistics are packed"
    channels = len(norm.weight)
    scale = blocks.new_empty(pictures, channels)
    shift = torch.empty_like(scale)
    launch(
        _combine_kernel, (pictures, groups),
        scale, shift, blocks, norm.weight, norm.bias, norm.weight if deferred is None else deferred,
        count, blocks.stride(0), channels, channels // groups, norm.eps,
        PENDING=deferred is not None, OF_GROUP=triton.next_power_of_2(channels // groups), num_warps=1,
    )  # fmt: skip
    return scale, shift


def scale_shift(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> None:
    """out = x * scale + shift, then SiLU if `silu`; scale and shift are float32 [B * T, C], one row per frame."""
    batch, frames, height, width, channels = x.shape
    require_packed_pixels(x)
    assert out.stride(4) == 1 and out.stride(2) == width * out.stride(3), "rows of pixels must follow one another"
    tile = _tile(channels)
    launch(
        _apply_kernel, (triton.cdiv(height * width, tile["PIXELS"]), batch * frames),
        out, x, scale, shift, frames, height * width, channels,
        out.stride(0), out.stride(1), out.stride(3), x.stride(0), x.stride(1), SILU=silu, **tile, num_warps=4,
    )  # fmt: skip
