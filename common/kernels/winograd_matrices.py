"""The constant matrices of Winograd's F(m, 3), and the scales that keep float16 within its range; see `winograd.py`."""

from collections.abc import Sequence

TAPS = 3
CARRIED = TAPS - 1  # frames before the new ones that a group reads
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}  # by m
INPUT_SCALE = 0.125  # of the frames: their largest combination is 5.7 times a frame
WEIGHT_SCALE = 0.25  # of the weights: products four times as large as float16's largest number still pass


def input_matrix(m: int) -> list[list[float]]:
    """B, [m + 2][m + 2]: for each point the coefficients of the polynomial that vanishes at the others."""
    points = POINTS[m]
    rows = [[*_vanishing(points[:i] + points[i + 1 :]), 0.0] for i in range(len(points))]
    return [*rows, _vanishing(points)]


def weight_matrix(m: int) -> list[list[float]]:
    """G, [m + 2][3]: powers of each point, over that polynomial's value there."""
    rows = []
    for i, point in enumerate(POINTS[m]):
        value = 1.0
        for other in POINTS[m][:i] + POINTS[m][i + 1 :]:
            value *= point - other
        rows.append([point**power / value for power in range(TAPS)])
    return [*rows, [0.0, 0.0, 1.0]]


def output_matrix(m: int) -> list[list[float]]:
    """A, [m][m + 2]: powers of each point."""
    return [[point**power for point in POINTS[m]] + [float(power == m - 1)] for power in range(m)]


def _vanishing(points: Sequence[float]) -> list[float]:
    """Coefficients of the product of (x - point), from the constant up."""
    coefficients = [1.0]
    for point in points:
        shifted, scaled = [0.0, *coefficients], [-point * c for c in coefficients] + [0.0]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients
