"""When does each packet of sound play? Times that rise, even where the file's do not.

In concatenated recordings, times start again at zero; faulty recorders repeat packets, or write one wrong time. A muxer
refuses times that do not rise. Some clocks are too coarse for the packets: in Matroska's milliseconds, one of six
packets of TrueHD has the time of the one before.
"""

from fractions import Fraction

import av

SPLICE_S = Fraction(1, 2)  # a jump back, or a step, of more than this is not jitter
MOST_PACKET_S = 10  # a longer duration is wrong (Ogg files whose last page ends before it begins)
USUAL_PACKET_S = 1  # a longer one than this and than that before it reaches over a gap (MP4 has no others)
TOLERANCE_S = Fraction(1, 10)  # how far a packet may be moved before sound and picture come apart


class RisingTimes:
    """Gives the packets of one track times from zero on that rise.

    Args:
        time_base: seconds per tick of the packets.
        origin: container time in seconds that becomes zero.
        packet_s: how long every packet lasts, where that is known. Shorter than a tick, it becomes the tick.

    Attributes:
        moved, skipped: how many packets were given another time, and how many were left out.
        joined: how often a new recording began.
    """

    def __init__(self, time_base: Fraction, origin: Fraction, packet_s: Fraction | None = None) -> None:
        self.of_file = self.time_base = time_base
        self.coarse = packet_s is not None and packet_s < time_base
        if packet_s is not None:
            self.time_base = min(packet_s, time_base)
        self.shift = -round(origin / self.time_base)  # ticks from the file's time to ours
        self.next: int | None = None  # our time of the end of the last packet
        self.last = 0
        self.payload = b""
        self.step = 1  # ticks that the last packet lasts
        self.moved = self.skipped = self.joined = 0
        self.waiting: av.Packet | None = None

    def push(self, packet: av.Packet | None) -> av.Packet | None:
        """Add the next packet, or None at the end; returns the one before with `pts` and `dts` set, or None.

        One packet is held back, because only the next one shows whether an odd time begins a new recording.
        """
        waiting, self.waiting = self.waiting, packet
        return waiting if waiting is not None and self._place(waiting, packet) else None

    def _place(self, packet: av.Packet, following: av.Packet | None) -> bool:
        if self.coarse:
            self._refine(packet)
        ticks, payload = _ticks(packet), bytes(packet)
        lead = packet.pts - ticks if packet.pts is not None and ticks is not None else 0
        duration = packet.duration or 0
        if duration * self.time_base > (MOST_PACKET_S if self.next is None else USUAL_PACKET_S):
            packet.duration = min(duration, self.step)
        step = packet.duration or self.step
        time: int | None
        if self.next is None:
            time = 0 if ticks is None else ticks + self.shift
        else:
            time = self._after_the_last(ticks, step, following)
            again = payload == self.payload and ticks is not None and ticks + self.shift <= self.last
            again = again and not self.coarse  # packets of silence are equal
            if time is None or again:
                self.skipped += 1
                return False
        self.moved += ticks is not None and abs(time - ticks - self.shift) > self.coarse  # one tick is rounding
        self.last, self.next, self.payload, self.step = time, time + step, payload, step
        packet.dts, packet.pts = time, time + max(lead, 0)
        return True

    def _refine(self, packet: av.Packet) -> None:
        """Its times in ticks of one packet each."""
        packet.pts, packet.dts = self._refined(packet.pts), self._refined(packet.dts)
        packet.duration, packet.time_base = 1, self.time_base

    def _refined(self, ticks: int | None) -> int | None:
        return ticks if ticks is None or not self.coarse else round(ticks * self.of_file / self.time_base)

    def _after_the_last(self, ticks: int | None, step: int, following: av.Packet | None) -> int | None:
        """The time of a packet that is not the first; None: it is to be skipped."""
        assert self.next is not None, "a packet came before"
        if ticks is None:
            return self.next
        time = ticks + self.shift
        if abs(time - self.next) * self.time_base > SPLICE_S:
            after = self._refined(_ticks(following)) if following is not None else None
            if after is not None and abs(after - ticks - step) * self.time_base > SPLICE_S:
                return self.next  # one wrong time: the next packet does not follow it
            if time < self.next:  # another recording starts here, with its own clock
                self.shift += self.next - time
                self.joined += 1
                return self.next
        if time > self.last:
            return time
        return self.next if (self.next - time) * self.time_base <= TOLERANCE_S else None


def _ticks(packet: av.Packet) -> int | None:
    return packet.dts if packet.dts is not None else packet.pts
