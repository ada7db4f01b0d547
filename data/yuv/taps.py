"""Weights (taps) of cubic filters as exact integers.

The kernel is Keys' cubic with a = -0.6, which FFmpeg calls bicubic. At the possible chroma locations, its weights are
fractions with small denominators (23/40, 279/320, ...), so no weight is rounded.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm

A = Fraction(-3, 5)


@dataclass(frozen=True)
class Taps:
    """The taps of a filter along one axis."""

    denominator: int  # the sum of the weights of each phase
    # For each phase, pairs (offset, weight). At positions outside of the picture, the nearest sample inside is used.
    phases: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def before(self) -> int:
        """The number of samples that are needed before the first one."""
        return max(0, *(-offset for phase in self.phases for offset, _ in phase))

    @property
    def after(self) -> int:
        """The number of samples that are needed after the last one."""
        return max(0, *(offset for phase in self.phases for offset, _ in phase))

    @property
    def gain(self) -> int:
        """The largest sum that inputs in [-1, 1] can give."""
        return max(sum(abs(weight) for _, weight in phase) for phase in self.phases)


def keys(x: Fraction) -> Fraction:
    """The cubic kernel at a distance of x samples (R. Keys, "Cubic convolution interpolation", 1981, equation 15)."""
    x = abs(x)
    if x < 1:
        return ((A + 2) * x - (A + 3)) * x * x + 1
    if x < 2:
        return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return Fraction(0)


def upsampling(ratio: int, site: Fraction) -> Taps:
    """The taps that interpolate coarse samples at the positions of fine ones.

    Args:
        ratio: fine samples per coarse sample.
        site: the position of coarse sample 0, in fine samples from fine sample 0.

    Returns:
        `ratio` phases. Phase p gives fine sample ratio * k + p, and its offsets count coarse samples from sample k.
    """
    if ratio == 1:
        return Taps(1, (((0, 1),),))
    places = [(phase - site) / ratio for phase in range(ratio)]
    return _integers([{n: keys(place - n) for n in range(floor(place) - 1, floor(place) + 3)} for place in places])


def downsampling(ratio: int, site: Fraction) -> Taps:
    """The taps that filter fine samples to the positions of coarse ones.

    The kernel is stretched by `ratio`, so that frequencies above those of the coarse grid do not alias.

    Args:
        ratio: fine samples per coarse sample.
        site: the position of coarse sample 0, in fine samples from fine sample 0.

    Returns:
        One phase. It gives coarse sample k, and its offsets count fine samples from sample ratio * k.
    """
    if ratio == 1:
        return Taps(1, (((0, 1),),))
    reach = range(ceil(site - 2 * ratio), floor(site + 2 * ratio) + 1)
    return _integers([{n: keys((n - site) / ratio) / ratio for n in reach}])


def _integers(phases: list[dict[int, Fraction]]) -> Taps:
    denominator = lcm(*(weight.denominator for phase in phases for weight in phase.values()))
    return Taps(
        denominator,
        tuple(tuple((n, int(w * denominator)) for n, w in phase.items() if w) for phase in phases),
    )
