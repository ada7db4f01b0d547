"""`--strength`: mixes the restored clip and its resized input, with a separate weight for each frequency band.

Over-sharpening and flicker are mostly in fine detail, while removed blur and blocks are in coarser detail. So with
decreasing strength, the finest band decreases fastest. docs/decisions/0012-strength.md compares other methods.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from projects.video_diffusion_sr.color_fix import blur_along

# Exponents of the bands between blurs of reach 1, 2, 4, 8 and 16, from the finest on, and of the low-pass residual.
EXPONENTS = (1.6, 1.3, 1.0, 0.8, 0.6, 0.5)


def mixed(given: Tensor, result: Tensor, strength: float, exponents: Sequence[float] = EXPONENTS) -> Tensor:
    """`given` plus each band of the difference, multiplied by the strength to the power of the band's exponent.

    Args:
        given: the resized input, float32 [B, 3, H, W] in about [-1, 1].
        result: the restored frames of the same shape and range.
        strength: in [0, 1]; 0 gives exactly `given`, and 1 gives `result` up to rounding.
        exponents: those of the bands, see `EXPONENTS`.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    # With the difference d_0 and its blurs d_k, the sum over bands of w_k (d_k - d_k+1) equals
    # w_0 d_0 + (w_1 - w_0) d_1 + ..., which needs memory for two pictures instead of six.
    weights = [strength**exponent for exponent in exponents]
    change = result - given
    sum_of_bands = given + weights[0] * change
    for level, (finer, weight) in enumerate(pairwise(weights)):
        change = blur_along(blur_along(change, -1, 2**level), -2, 2**level)
        sum_of_bands.add_(change, alpha=weight - finer)
    return sum_of_bands
