"""Sums of products of whole numbers in int32, on any device, tile by tile.

Integer sums do not depend on their order and are not rounded, so a CPU, a GPU and a loop in Python give the same bits.
Tiles keep the intermediate numbers of a CPU in its cache and those of a GPU bounded.
"""

from collections.abc import Iterator, Sequence
from math import ceil, log2

import torch
from torch import Tensor

from data.yuv.layout import YuvLayout

CPU_TILE, GPU_TILE = 2**19, 2**22  # pixels of luma; some 24 bytes each


def tiles(shape: Sequence[int], device: torch.device, multiple: int) -> Iterator[tuple[slice, int, int]]:
    """(frames, first row, row behind the last) of (T, H, W); first rows are multiples of `multiple`."""
    frames, height, width = shape
    budget = CPU_TILE if device.type == "cpu" else GPU_TILE
    rows = max(budget // max(width, 1) // multiple, 1) * multiple
    together = max(rows // max(height, 1), 1)
    for first_frame in range(0, frames, together):
        for first in range(0, height, rows):
            yield slice(first_frame, first_frame + together), first, min(first + rows, height)


def padded(plane: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """A part of a plane; places outside of the plane take the nearest sample inside.

    Args:
        plane: [T, h, w] of any dtype.
        rows, columns: (first, behind the last), also below 0 and above the size.
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
    """A plane's words as the numbers that they hold, int32."""
    numbers = words.to(torch.int32)
    if layout.shift:
        numbers >>= layout.shift
    if layout.depth + layout.shift == 16:
        numbers &= 2**layout.depth - 1  # int16 has sign-extended the highest bit
    return numbers


def weighted(views: list[Tensor], weights: list[int], constant: int = 0) -> Tensor:
    """constant + the sum of weights[n] * views[n], a new int32 tensor."""
    total = torch.rsub(views[0], constant, alpha=-weights[0])  # constant + weight * view, in one pass
    for view, weight in zip(views[1:], weights[1:], strict=True):
        total.add_(view, alpha=weight)
    return total


def bits_to_drop(largest: int, kept: int) -> int:
    """How many bits to shift numbers up to `largest` right, to keep about `kept` bits."""
    return max(0, ceil(log2(largest)) - kept)


def shifted(total: Tensor, bits: int) -> Tensor:
    """Shift right, in place; the caller has added `half(bits)` for rounding."""
    if bits:
        total >>= bits
    return total


def half(bits: int) -> int:
    """The number to add before `bits` bits are dropped, for rounding to the nearest."""
    return 1 << (bits - 1) if bits else 0
