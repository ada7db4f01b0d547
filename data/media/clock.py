"""When is a frame shown? Exact times from a container's rounded ticks.

Containers round times: Matroska counts milliseconds, so a clip of 30000/1001 frames per second has steps of 33 and 34.
Times within one tick of the grid of the nominal rate are moved onto the grid. If a frame is further away, the rate
varies or the nominal rate is wrong, and from this frame on times are not moved. So clips of constant rate get exactly
even times (a dropped frame leaves a gap of whole frames), and in other clips no frame moves by more than one tick.
"""

from fractions import Fraction

import av

USUAL_RATE = Fraction(25)  # for streams without a rate


def time_base_of(read: av.stream.Stream | av.Packet | av.VideoFrame | av.AudioFrame) -> Fraction:
    """Seconds per tick. In PyAV's types it may be None, but objects that were read from a file have it."""
    assert read.time_base is not None
    return read.time_base


def nominal_rate(stream: av.VideoStream) -> tuple[Fraction, bool]:
    """(frames per second, whether the container suggests a variable rate).

    The container's average rate is slightly wrong if the last frame has another length or durations are rounded, so the
    base rate is used if the two agree within 1 %. The base rate is the slowest on whose grid every frame lies, so an
    average of more than twice the base rate is wrong (raw DV).
    """
    average, base = stream.average_rate, stream.base_rate
    if average and base and average > 2 * base:
        return base, False
    if not average:
        return stream.guessed_rate or base or USUAL_RATE, False
    if base and abs(base - average) < average / 100:
        return base, False
    return average, bool(base) and base != 2 * average  # interlaced streams count fields in the base rate


class Clock:
    """Converts the ticks of successive frames to strictly increasing times in seconds.

    Args:
        rate: nominal frames per second.
        time_base: seconds per tick.
        origin: the container time in seconds that becomes zero.
    """

    def __init__(self, rate: Fraction, time_base: Fraction, origin: Fraction) -> None:
        self.rate, self.time_base, self.origin = rate, time_base, origin
        self.even = True
        self.first: Fraction | None = None
        self.last: Fraction | None = None

    def time_of(self, pts: int | None) -> Fraction:
        """The time of the next frame in seconds.

        A frame without ticks, or whose time does not increase, comes one nominal step after the frame before it.
        """
        if pts is None:
            time = Fraction(0) if self.last is None else self.last + 1 / self.rate
        else:
            time = self._on_grid(max(pts * self.time_base - self.origin, Fraction(0)))
        if self.last is not None and time <= self.last:
            time = self.last + 1 / self.rate
        if self.first is None:
            self.first = time
        self.last = time
        return time

    def _on_grid(self, time: Fraction) -> Fraction:
        if self.first is None or not self.even:
            return time
        nearest = self.first + round((time - self.first) * self.rate) / self.rate
        self.even = abs(nearest - time) <= self.time_base
        return nearest if self.even else time
