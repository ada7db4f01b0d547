"""Cubic interpolation weights (taps) as exact integers.

The kernel is Keys' cubic with a = -0.6, the one that FFmpeg calls bicubic. Its weights at the places where chroma can
lie are fractions with small denominators (23/40, 279/320, ...), so that nothing is rounded before the sum.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm

A = Fraction(-3, 5)


@dataclass(frozen=True)
class Taps:
    """Weights of one axis."""

    denominator: int  # sum of the weights of a phase
    # For each phase, pairs (offset, weight); offsets outside of the picture take the nearest sample inside.
    phases: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def before(self) -> int:
        """Samples needed before the first one."""
        return max(0, *(-offset for phase in self.phases for offset, _ in phase))

    @property
    def after(self) -> int:
        """Samples needed behind the last one."""
        return max(0, *(offset for phase in self.phases for offset, _ in phase))

    @property
    def gain(self) -> int:
        """The largest sum for inputs in [-1, 1]."""
        return max(sum(abs(weight) for _, weight in phase) for phase in self.phases)


def keys(x: Fraction) -> Fraction:
    """The cubic kernel at a distance of x samples. Keys, "Cubic convolution interpolation", 1981, equation 15."""
    x = abs(x)
    if x < 1:
        return ((A + 2) * x - (A + 3)) * x * x + 1
    if x < 2:
        return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return Fraction(0)


def upsampling(ratio: int, site: Fraction) -> Taps:
    """Coarse samples to fine ones. Phase p makes fine sample ratio * k + p; offsets count coarse samples from k.

    Args:
        site: where coarse sample 0 lies, in fine samples from fine sample 0.
    """
    if ratio == 1:
        return Taps(1, (((0, 1),),))
    places = [(phase - site) / ratio for phase in range(ratio)]
    return _integers([{n: keys(place - n) for n in range(floor(place) - 1, floor(place) + 3)} for place in places])


def downsampling(ratio: int, site: Fraction) -> Taps:
    """Fine samples to coarse ones: one phase, offsets count fine samples from ratio * k. The kernel is scaled
    by `ratio`, so that frequencies above those of the coarse grid do not alias."""
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
