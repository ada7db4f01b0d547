"""Ordered dithering: thresholds that vary between neighbours, so that ramps in few codes show no bands.

The threshold of the pixel in row y and column x is the fraction of x / p + y / p^2, where p = 1.3247... is the plastic
number (M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018): neighbours' thresholds differ as
much as they can, and no pattern repeats as in a Bayer matrix. Thresholds are integers, so that every device has the
same ones, and the same for every frame, since changing noise costs bits in every frame of a clip.
"""

import torch
from torch import Tensor

BITS = 32
OF_COLUMN, OF_ROW = round(2**BITS * 0.7548776662466927), round(2**BITS * 0.5698402909980532)  # 1 / p, 1 / p^2

SPREAD = 32


def thresholds(first: int, last: int, width: int, bits: int, device: torch.device) -> Tensor:
    """int32 [last - first, width] in [0, 2^bits), for rows first..last of a picture.

    The ends of the range are left out: a value within 1 / 32 of a code becomes this code, so that exact codes stay
    unchanged in spite of rounding errors in the sums before.
    """
    rows = torch.arange(first, last, dtype=torch.int64, device=device)[:, None] * OF_ROW
    columns = torch.arange(width, dtype=torch.int64, device=device) * OF_COLUMN
    fraction = (rows + columns) % 2**BITS
    return ((fraction * (SPREAD - 2) // SPREAD + 2**BITS // SPREAD) >> BITS - bits).to(torch.int32)
