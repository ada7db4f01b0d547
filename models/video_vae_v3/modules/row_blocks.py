"""Convolves a tensor that is too large for one call in blocks of rows. All tensors are [B, T, H, W, C]."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31 - 1  # above this, libraries use slow kernels with 64-bit indices or fail


def in_row_blocks(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    out_shape: tuple[int, ...],
    *,
    up: int = 1,
    down: int = 1,
    halo: tuple[int, int] = (0, 0),
    most: int = MOST_ELEMENTS,
) -> Tensor:
    """run(x), computed in blocks of rows so that every input and output has at most `most` elements. Exact.

    Args:
        run: maps H rows to (H - sum(halo)) * up / down rows. Without a halo, it pads the ends of its input as the
            border of the picture.
        x: [B, T, H, W, C].
        out_shape: shape of the result, [B, T', H', W', O].
        up, down: factors by which `run` enlarges and reduces the picture; one of them is 1.
        halo: number of halo rows of x above and below the picture's rows; (0, 0) if `run` pads the picture.
        most: the largest number of elements of a block.
    """
    count = ceil(max(x.numel(), torch.Size(out_shape).numel()) / most)
    if count <= 1:
        return run(x)
    out, padded = x.new_empty(out_shape), halo == (0, 0)
    rows = out.shape[2] // up
    step = max(1, rows // ceil(count * 1.25) - 2)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        # If `run` pads the picture, each block gets one more row on either side, whose results are dropped.
        first = max(start * down - 1, 0) if padded else start * down
        last = min(stop * down + 1, x.shape[2]) if padded else stop * down + sum(halo)
        block = run(x[:, :, first:last])
        skip = (start * down - first) * up // down
        out[:, :, start * up : stop * up] = block[:, :, skip : skip + (stop - start) * up]
        del block  # before the next one is made
    return out
