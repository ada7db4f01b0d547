"""Ordered dithering: rounding thresholds differ between neighbours, so that gradients of few codes show no bands.

The threshold of the pixel in row y and column x is the fractional part of x / p + y / p^2, where p = 1.3247... is the
plastic number (M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018). Thresholds of neighbours
are far apart, and no pattern repeats as in a Bayer matrix. They are computed in integers, so they are the same on every
device. They are the same for every frame, since noise that changes would cost bits in every frame of a clip.
"""

import torch
from torch import Tensor

BITS = 32  # bits of the fraction
OF_COLUMN, OF_ROW = round(2**BITS * 0.7548776662466927), round(2**BITS * 0.5698402909980532)  # 1 / p, 1 / p^2

SPREAD = 32  # 1 / SPREAD of the range is left out at each end, see `thresholds`


def thresholds(first: int, last: int, width: int, bits: int, device: torch.device) -> Tensor:
    """The thresholds for rows `first` to `last - 1` of a picture: int32 [last - first, width] in [0, 2^bits).

    The ends of the range are left out, so a value within 1 / 32 of a code becomes this code. So exact codes stay
    unchanged in spite of rounding errors in earlier sums.

    Args:
        bits: bits of the fraction that is rounded, at most 31.
    """
    rows = torch.arange(first, last, dtype=torch.int64, device=device)[:, None] * OF_ROW
    columns = torch.arange(width, dtype=torch.int64, device=device) * OF_COLUMN
    fraction = (rows + columns) % 2**BITS
    return ((fraction * (SPREAD - 2) // SPREAD + 2**BITS // SPREAD) >> BITS - bits).to(torch.int32)
