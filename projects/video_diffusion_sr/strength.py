"""`--strength`: how much of the restored clip there is in the result, band by band.

Over-sharpening and what flickers lie in fine detail, blur and blocks that were removed in coarser detail. So as the
strength falls, the finest band falls fastest. docs/decisions/0012-strength.md compares this with other ways.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from projects.video_diffusion_sr.color_fix import blur_along

# Of the bands between blurs with reach 1, 2, 4, 8 and 16, from the finest, and of what the last one leaves.
EXPONENTS = (1.6, 1.3, 1.0, 0.8, 0.6, 0.5)


def mixed(given: Tensor, result: Tensor, strength: float, exponents: Sequence[float] = EXPONENTS) -> Tensor:
    """`given` plus every band of what the restorer changed, times the strength to the power of the band's exponent.

    Args:
        given: the resized input. result: the restored frames. Both [B, 3, H, W] float32 about [-1, 1].
        strength: 0, exactly `given`, to 1, `result` up to rounding.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    # With d_0 the change and d_k what k blurs leave of it, the sum over bands of w_k (d_k - d_k+1) is, sorted by d_k,
    # w_0 d_0 + (w_1 - w_0) d_1 + ...: two pictures are held, not six.
    weights = [strength**exponent for exponent in exponents]
    change = result - given
    sum_of_bands = given + weights[0] * change
    for level, (finer, weight) in enumerate(pairwise(weights)):
        change = blur_along(blur_along(change, -1, 2**level), -2, 2**level)
        sum_of_bands.add_(change, alpha=weight - finer)
    return sum_of_bands
