"""A convolution of a tensor too large for one call, in blocks of rows. Everything is [B, T, H, W, C]."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31 - 1  # above, libraries fall back to slow kernels with 64-bit indices, or have none


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
    """run(x), in as many blocks as keep every input and output at or below `most` elements. Exact.

    Args:
        run: turns rows into (rows - halo) * up / down where there is a halo in x, else into rows * up / down, treating
            the ends of what it is given as the border of the picture.
        out_shape: of the result.
        halo: rows of x above and below those that the result's rows stand for; (0, 0) where `run` pads the picture.
    """
    count = ceil(max(x.numel(), torch.Size(out_shape).numel()) / most)
    if count <= 1:
        return run(x)
    out, padded = x.new_empty(out_shape), halo == (0, 0)
    rows = out.shape[2] // up
    step = max(1, rows // ceil(count * 1.25) - 2)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        # A picture that `run` pads is cut with a row more on either side, of which the results are dropped.
        first = max(start * down - 1, 0) if padded else start * down
        last = min(stop * down + 1, x.shape[2]) if padded else stop * down + sum(halo)
        block = run(x[:, :, first:last])
        skip = (start * down - first) * up // down
        out[:, :, start * up : stop * up] = block[:, :, skip : skip + (stop - start) * up]
    return out
