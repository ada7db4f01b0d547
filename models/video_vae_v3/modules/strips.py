"""A convolution of a tensor too large for one call, in strips of height. Everything is [B, T, H, W, C]."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31 - 1  # above, libraries fall back to slow kernels with 64-bit indices, or have none


def in_strips(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    out_shape: tuple[int, ...],
    up: int = 1,
    down: int = 1,
    halo: tuple[int, int] = (1, 1),
    most: int = MOST_ELEMENTS,
) -> Tensor:
    """run(x), in as many strips as keep every input and output at or below `most` elements. Exact.

    Args:
        run: turns rows into rows * up / down, treating the ends of what it is given as the border of the picture.
        out_shape: of the result.
        halo: rows that an output row needs above and below its own `down` input rows; where there is a halo above, the
            rows that `run` computes for it are dropped.
    """
    count = ceil(max(x.numel(), torch.Size(out_shape).numel()) / most)
    if count <= 1:
        return run(x)
    return strips(
        run, lambda a, b: x[:, :, a:b], x.shape[2], ceil(count * 1.25), x.new_empty(out_shape), up, down, halo
    )


def strips(
    run: Callable[[Tensor], Tensor],
    take: Callable[[int, int], Tensor],
    height: int,
    count: int,
    out: Tensor,
    up: int = 1,
    down: int = 1,
    halo: tuple[int, int] = (1, 1),
) -> Tensor:
    """`out`, filled in `count` strips or a few more; the others as in `in_strips`.

    Args:
        take: the input's rows from one up to another, of `height`.
    """
    rows = out.shape[2] // up
    step = max(1, rows // count - sum(halo))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        first = max(start * down - halo[0], 0)
        strip = run(take(first, min(stop * down + halo[1], height)))
        skip = (start * down - first) * up // down
        out[:, :, start * up : stop * up] = strip[:, :, skip : skip + (stop - start) * up]
    return out
