"""How do the files of a clip's stretches become one stream? Packet by packet, without a second encoding.

Each was made by an encoder of its own with the same settings, so it begins with a key frame, refers to nothing outside
of it, and one header describes all.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av


@dataclass(frozen=True)
class Stretch:
    """A file of a picture alone. ticks: of the clip's clock, at which its first frame is shown."""

    path: Path
    ticks: int


class JoinedPicture:
    """The stretches of a clip, in order, as one stream.

    Args:
        ticks: of the clip's clock, per second.
        stack: closes the first stretch, which `stream` belongs to.
    Attributes:
        stream: describes the picture. length: seconds from time zero to the end of the last frame.
    """

    def __init__(self, stretches: Sequence[Stretch], ticks: int, stack: ExitStack) -> None:
        self._stretches, self._ticks = stretches, ticks
        self.stream = stack.enter_context(_open(stretches[0])).streams.video[0]
        with _open(stretches[-1]) as last:
            stream = last.streams.video[0]
            self.length = (stream.duration or 0) * stream.time_base + Fraction(stretches[-1].ticks, ticks)

    def packets(self) -> Iterator[av.Packet]:
        """In the order of decoding, with the times that one encoder would have given them."""
        if len(self._stretches) == 1 and self._stretches[0].ticks == 0:
            yield from (packet for packet in self.stream.container.demux(self.stream) if packet.size)
            return
        earlier: deque[int] = deque()  # display times that become decoding times, as many as frames are reordered
        for number, stretch in enumerate(self._stretches):
            with _open(stretch) as container:
                shown = sorted(self._moved(packet.pts, packet, stretch) for packet in _packets(container))
            with _open(stretch) as container:
                for packet, time in zip(_packets(container), shown, strict=True):
                    packet.pts, packet.dts = (self._moved(t, packet, stretch) for t in (packet.pts, packet.dts))
                    packet.duration = round(packet.duration * packet.time_base * self._ticks)
                    packet.time_base = Fraction(1, self._ticks)
                    earlier.append(time)
                    if number or packet.dts >= shown[0]:
                        packet.dts = earlier.popleft()
                    yield packet

    def _moved(self, time: int, packet: av.Packet, stretch: Stretch) -> int:
        return round(time * packet.time_base * self._ticks) + stretch.ticks


def _open(stretch: Stretch) -> av.container.InputContainer:
    return av.open(str(stretch.path.absolute()))


def _packets(container: av.container.InputContainer) -> Iterator[av.Packet]:
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)
