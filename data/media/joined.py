"""Joins the files of a clip's segments to one stream. Packets are copied, not encoded again.

Each segment was made by its own encoder with the same settings. So it begins with a key frame, refers to no other
segment, and one header describes all segments.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av


@dataclass(frozen=True)
class Segment:
    """A file with a part of the video of a clip, without sound."""

    path: Path  # the file
    ticks: int  # offset in ticks of the clip's clock, which is added to the times in the file


class JoinedPicture:
    """The segments of a clip as one stream.

    Args:
        segments: at least one, in order.
        ticks: ticks of the clip's clock per second.
        stack: closes the first segment's file, to which `stream` belongs.

    Attributes:
        stream: the video stream of the first segment, which describes the video of all.
        length: seconds from time zero to the end of the last frame.
    """

    def __init__(self, segments: Sequence[Segment], ticks: int, stack: ExitStack) -> None:
        self._segments, self._ticks = segments, ticks
        self.stream = stack.enter_context(_open(segments[0])).streams.video[0]
        with _open(segments[-1]) as last:
            self.length = _end(last) + Fraction(segments[-1].ticks, ticks)

    def packets(self) -> Iterator[av.Packet]:
        """The packets in decoding order, with the times that a single encoder would have given them."""
        if len(self._segments) == 1 and self._segments[0].ticks == 0:
            container = self.stream.container
            assert isinstance(container, av.container.InputContainer)
            yield from (packet for packet in container.demux(self.stream) if packet.size)
            return
        earlier: deque[int] = deque()  # display times that become decoding times; as many as frames are reordered
        for number, segment in enumerate(self._segments):
            with _open(segment) as container:
                shown = sorted(self._moved(packet.pts, packet, segment) for packet in _packets(container))
            with _open(segment) as container:
                for packet, time in zip(_packets(container), shown, strict=True):
                    packet.pts, packet.dts = (self._moved(t, packet, segment) for t in (packet.pts, packet.dts))
                    assert packet.duration is not None and packet.time_base is not None, "packets have durations"
                    packet.duration = round(packet.duration * packet.time_base * self._ticks)
                    packet.time_base = Fraction(1, self._ticks)
                    earlier.append(time)
                    if number or packet.dts >= shown[0]:
                        packet.dts = earlier.popleft()
                    yield packet

    def _moved(self, time: int | None, packet: av.Packet, segment: Segment) -> int:
        assert time is not None and packet.time_base is not None, "an encoder gives its packets times"
        return round(time * packet.time_base * self._ticks) + segment.ticks


def _end(container: av.container.InputContainer) -> Fraction:
    """Seconds from a file's time zero to the end of its last frame."""
    stream = container.streams.video[0]
    if stream.duration is None:  # Matroska states the duration of the file, whose only stream this is
        return Fraction(container.duration or 0, av.time_base)
    assert stream.time_base is not None, "a file that an encoder has written"
    return stream.duration * stream.time_base


def _open(segment: Segment) -> av.container.InputContainer:
    return av.open(str(segment.path.absolute()))


def _packets(container: av.container.InputContainer) -> Iterator[av.Packet]:
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)
