"""CIELAB for the colour fix: conversions, and matching of distributions.

It converts sRGB (IEC 61966-2-1) to CIELAB (CIE 15:2004) with the white point D65, and back. Values outside the gamut
are not clamped: the linear part of each curve continues below 0, so that the round trip is exact up to rounding.
"""

import torch
from torch import Tensor

from data.pixel_range import model_to_unit, unit_to_model

# Linear sRGB -> XYZ by IEC 61966-2-1, with rows X, Y, Z. The sum of each row is the white point D65.
RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
# f(t) of CIELAB's definition for X, Y, Z -> L* + `LIGHTNESS_OFFSET`, a*, b*.
F_TO_LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))
LIGHTNESS_OFFSET = 16.0
KNEE = 6.0 / 29.0  # CIELAB: cube root above KNEE ** 3, a straight line below
QUANTILES = 256


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB in [-1, 1] to L* in about [0, 100], a* and b*: float32 [B, 3, H, W] both."""
    encoded = model_to_unit(rgb)
    linear = torch.where(encoded > 0.04045, ((encoded.clamp_min(0) + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    ratio = mixed(linear, _whitened())
    root = torch.where(ratio > KNEE**3, ratio.clamp_min(KNEE**3) ** (1 / 3), ratio / (3 * KNEE**2) + 4 / 29)
    lab = mixed(root, torch.tensor(F_TO_LAB, dtype=torch.float64))
    lab[:, 0] -= LIGHTNESS_OFFSET
    return lab


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`, not clamped."""
    offset = torch.tensor([LIGHTNESS_OFFSET, 0.0, 0.0], device=lab.device).view(1, 3, 1, 1)
    root = mixed(lab + offset, torch.tensor(F_TO_LAB, dtype=torch.float64).inverse())
    ratio = torch.where(root > KNEE, root**3, 3 * KNEE**2 * (root - 4 / 29))
    linear = mixed(ratio, _whitened().inverse())
    encoded = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return unit_to_model(encoded)


def mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """The product of a 3x3 matrix with each pixel, written out, as TF32 would round a matrix product to ten bits."""
    rows = matrix.tolist()
    return torch.stack([sum(c * x[:, i] for i, c in enumerate(row) if c) for row in rows], dim=1)


def match_distribution(content: Tensor, style: Tensor) -> Tensor:
    """Map each channel of each picture by a monotonic curve to the distribution of `style`.

    The curve interpolates `QUANTILES` quantiles linearly, so equal values stay equal. Matching by rank would give equal
    values of a flat area different results.

    Args:
        content, style: float32 [B, C, H, W].
    Returns:
        float32 [B, C, H, W].
    """
    matched = torch.empty_like(content)
    for i in range(content.shape[0]):
        for j in range(content.shape[1]):
            matched[i, j] = curve(content[i, j], quantiles(content[i, j]), quantiles(style[i, j]))
    return matched


def quantiles(x: Tensor) -> Tensor:
    """`QUANTILES` evenly spaced order statistics of all values, from the smallest to the largest: [QUANTILES]."""
    values = x.flatten().sort().values
    where = torch.linspace(0, len(values) - 1, QUANTILES, dtype=torch.float64).round().long()
    return values[where.to(x.device)]


def curve(x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Interpolate linearly through points (given, wanted), both increasing; points with equal `given` are averaged."""
    knots, group, count = torch.unique_consecutive(given, return_inverse=True, return_counts=True)
    values = torch.zeros_like(knots).index_add_(0, group, wanted) / count
    if len(knots) == 1:
        return x - knots + values
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(values[left], values[right], share)


def _whitened() -> Tensor:
    """Linear sRGB -> XYZ divided by that of white, float64 [3, 3]: white becomes (1, 1, 1)."""
    matrix = torch.tensor(RGB_TO_XYZ, dtype=torch.float64)
    return matrix / matrix.sum(dim=1, keepdim=True)
