"""The constant matrices of Winograd's F(m, 3), and scales that keep values in float16's range; see `winograd.py`."""

from collections.abc import Sequence

TAPS = 3
CARRIED = TAPS - 1  # number of frames before the new ones that a group reads
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}  # the interpolation points for each m
INPUT_SCALE = 0.125  # multiplies the frames, since the input transform can make them 5.7 times as large
WEIGHT_SCALE = 0.25  # multiplies the weights, so that products of up to four times float16's maximum do not overflow


def input_matrix(m: int) -> list[list[float]]:
    """B, [m + 2][m + 2]: for each point, the coefficients of the polynomial that vanishes at all other points."""
    points = POINTS[m]
    rows = [[*_vanishing(points[:i] + points[i + 1 :]), 0.0] for i in range(len(points))]
    return [*rows, _vanishing(points)]


def weight_matrix(m: int) -> list[list[float]]:
    """G, [m + 2][3]: powers of each point, divided by the value there of its polynomial in `input_matrix`."""
    rows = []
    for i, point in enumerate(POINTS[m]):
        value = 1.0
        for other in POINTS[m][:i] + POINTS[m][i + 1 :]:
            value *= point - other
        rows.append([point**power / value for power in range(TAPS)])
    return [*rows, [0.0, 0.0, 1.0]]


def output_matrix(m: int) -> list[list[float]]:
    """A, [m][m + 2]: powers of each point; for infinity, 1 in the last row only."""
    return [[point**power for point in POINTS[m]] + [float(power == m - 1)] for power in range(m)]


def _vanishing(points: Sequence[float]) -> list[float]:
    """The coefficients of the product of (x - point) over all points, beginning with the constant."""
    coefficients = [1.0]
    for point in points:
        shifted, scaled = [0.0, *coefficients], [-point * c for c in coefficients] + [0.0]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients
