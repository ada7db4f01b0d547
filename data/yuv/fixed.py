"""Weighted sums in int32, on any device, tile by tile.

Integer sums do not depend on their order and are not rounded, so a CPU, a GPU and a loop in Python give the same bits.
Tiles keep intermediate results in the cache of a CPU, and limit their memory on a GPU.
"""

from collections.abc import Iterator, Sequence
from math import ceil, log2

import torch
from torch import Tensor

from data.yuv.layout import YuvLayout

CPU_TILE, GPU_TILE = 2**19, 2**22  # luma pixels of a tile; each takes about 24 bytes


def tiles(shape: Sequence[int], device: torch.device, multiple: int) -> Iterator[tuple[slice, int, int]]:
    """Divide frames into tiles.

    Args:
        shape: (T, H, W).
        device: where the tiles are computed, which decides their size.
        multiple: the first rows of tiles are multiples of it.

    Yields:
        (frames, first row, end) of each tile; tiles have the full width.
    """
    frames, height, width = shape
    budget = CPU_TILE if device.type == "cpu" else GPU_TILE
    rows = max(budget // max(width, 1) // multiple, 1) * multiple
    together = max(rows // max(height, 1), 1)
    for first_frame in range(0, frames, together):
        for first in range(0, height, rows):
            yield slice(first_frame, first_frame + together), first, min(first + rows, height)


def padded(plane: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """A part of a plane; positions outside of the plane get the nearest sample inside.

    Args:
        plane: [T, h, w], any dtype.
        rows: (first, end); they can be below 0 and above the height.
        columns: (first, end); they can be below 0 and above the width.

    Returns:
        [T, end row - first row, end column - first column].
    """
    (first, last), (left, right), (height, width) = rows, columns, plane.shape[-2:]
    top, bottom = max(first, 0), min(last, height)
    inside = plane[:, top:bottom, max(left, 0) : min(right, width)]
    if left < 0 or right > width:
        before = inside[..., :1].expand(-1, -1, max(-left, 0))
        after = inside[..., -1:].expand(-1, -1, max(right - width, 0))
        inside = torch.cat([before, inside, after], dim=-1)
    if top > first or bottom < last:
        above = inside[:, :1].expand(-1, top - first, -1)
        below = inside[:, -1:].expand(-1, last - bottom, -1)
        inside = torch.cat([above, inside, below], dim=1)
    return inside


def samples(words: Tensor, layout: YuvLayout) -> Tensor:
    """The sample values of a plane as int32, without the unused bits of their words."""
    numbers = words.to(torch.int32)
    if layout.shift:
        numbers >>= layout.shift
    if layout.depth + layout.shift == 16:
        numbers &= 2**layout.depth - 1  # int16 has sign-extended the highest bit
    return numbers


def weighted(views: list[Tensor], weights: list[int], constant: int = 0) -> Tensor:
    """constant + the sum of weights[n] * views[n], as a new int32 tensor. The caller must exclude an overflow."""
    total = torch.rsub(views[0], constant, alpha=-weights[0])  # constant + weight * view, in one pass
    for view, weight in zip(views[1:], weights[1:], strict=True):
        total.add_(view, alpha=weight)
    return total


def bits_to_drop(largest: int, kept: int) -> int:
    """By how many bits to shift numbers up to `largest` right, so that about `kept` bits remain."""
    return max(0, ceil(log2(largest)) - kept)


def shifted(total: Tensor, bits: int) -> Tensor:
    """Shift right by `bits` bits, in place. To round to the nearest, the caller adds `half(bits)` before."""
    if bits:
        total >>= bits
    return total


def half(bits: int) -> int:
    """One half in units of the bits that are dropped: added before `shifted`, it gives rounding to the nearest."""
    return 1 << (bits - 1) if bits else 0
