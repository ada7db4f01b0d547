"""The colour fix in CIELAB: lightness keeps the input's large forms, chroma gets the input's distribution.

sRGB (IEC 61966-2-1) <-> CIELAB (CIE 15:2004) with the white D65. Values beyond the gamut stay what they are: every
curve is continued by its linear piece, so a picture survives the way there and back.
"""

import torch
from torch import Tensor

from data.pixel_range import model_to_unit, unit_to_model

# Linear sRGB -> XYZ, IEC 61966-2-1, rows X, Y, Z; divided by the white D65, which is the sum of each row.
RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
# f(t) of CIELAB's definition -> L*, a*, b* less the constant of L*.
F_TO_LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))
LIGHTNESS_OFFSET = 16.0
KNEE = 6.0 / 29.0  # CIELAB: cube root above KNEE ** 3, a straight line below
QUANTILES = 256


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in [-1, 1], [B, 3, H, W] float32 -> L* in about 0..100 and a*, b*, same shape."""
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
    """The matrix times each pixel's three values. Written out: TF32 would round a matrix product to ten bits."""
    rows = matrix.tolist()
    return torch.stack([sum(c * x[:, i] for i, c in enumerate(row) if c) for row in rows], dim=1)


def match_distribution(content: Tensor, style: Tensor) -> Tensor:
    """Each channel of each picture moved by a rising curve, after which it has the distribution of `style`.

    The curve joins `QUANTILES` quantiles by straight lines, so equal values stay equal: ranks would tear flat areas
    apart.

    Args:
        content, style: float32 [B, C, H, W].
    """
    matched = torch.empty_like(content)
    for i in range(content.shape[0]):
        for j in range(content.shape[1]):
            matched[i, j] = curve(content[i, j], quantiles(content[i, j]), quantiles(style[i, j]))
    return matched


def quantiles(x: Tensor) -> Tensor:
    """[QUANTILES] evenly spaced order statistics, from the least to the greatest."""
    values = x.flatten().sort().values
    where = torch.linspace(0, len(values) - 1, QUANTILES, dtype=torch.float64).round().long()
    return values[where.to(x.device)]


def curve(x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Linear interpolation through (given, wanted), both rising; where several share a `given`, their mean is taken."""
    knots, group, count = torch.unique_consecutive(given, return_inverse=True, return_counts=True)
    values = torch.zeros_like(knots).index_add_(0, group, wanted) / count
    if len(knots) == 1:
        return x - knots + values
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(values[left], values[right], share)


def _whitened() -> Tensor:
    """Linear sRGB -> XYZ over the white's, float64 [3, 3]: white becomes (1, 1, 1)."""
    matrix = torch.tensor(RGB_TO_XYZ, dtype=torch.float64)
    return matrix / matrix.sum(dim=1, keepdim=True)
