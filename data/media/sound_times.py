"""When does each packet of sound play? Makes times increase, even if those of the file do not.

In concatenated recordings, times start again at zero; faulty recorders repeat packets, or write single wrong times. A
muxer refuses times that do not increase. Some clocks are too coarse for the packets: in Matroska's milliseconds, one of
six packets of TrueHD has the same time as the packet before.
"""

from fractions import Fraction

import av

SPLICE_S = Fraction(1, 2)  # a larger deviation from the expected time is not jitter
MOST_PACKET_S = 10  # a first packet of a longer duration has a wrong one (Ogg files whose last page ends too early)
USUAL_PACKET_S = 1  # a longer duration of a later packet includes the gap after it, as in MP4
TOLERANCE_S = Fraction(1, 10)  # the largest shift of a packet that keeps sound and video synchronous


class RisingTimes:
    """Gives the packets of one track strictly increasing decoding times.

    Args:
        time_base: seconds per tick of the packets.
        origin: the container time in seconds that becomes zero.
        packet_s: the duration of every packet in seconds, if it is known. If it is shorter than a tick, times are
            converted to ticks of this length.

    Attributes:
        moved: how many packets were given another time.
        skipped: how many packets were left out.
        joined: how many times a new recording began.
    """

    def __init__(self, time_base: Fraction, origin: Fraction, packet_s: Fraction | None = None) -> None:
        self.of_file = self.time_base = time_base
        self.coarse = packet_s is not None and packet_s < time_base
        if packet_s is not None:
            self.time_base = min(packet_s, time_base)
        self.shift = -round(origin / self.time_base)  # ticks to add to the file's times
        self.next: int | None = None  # end of the last packet, shifted
        self.last = 0  # start of the last packet, shifted
        self.payload = b""  # of the last packet
        self.step = 1  # duration of the last packet in ticks
        self.moved = self.skipped = self.joined = 0
        self.waiting: av.Packet | None = None

    def push(self, packet: av.Packet | None) -> av.Packet | None:
        """Add the next packet, or None at the end. Returns the packet before it, with `pts` and `dts` set.

        One packet is held back, because only the next one shows whether an unexpected time begins a new recording.

        Returns:
            None if there is no packet before, or it is skipped.
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
            again = again and not self.coarse  # then equal packets are silence, not repetitions
            if time is None or again:
                self.skipped += 1
                return False
        self.moved += ticks is not None and abs(time - ticks - self.shift) > self.coarse  # one tick is rounding
        self.last, self.next, self.payload, self.step = time, time + step, payload, step
        packet.dts, packet.pts = time, time + max(lead, 0)
        return True

    def _refine(self, packet: av.Packet) -> None:
        """Convert the packet's times to ticks of the duration of one packet."""
        packet.pts, packet.dts = self._refined(packet.pts), self._refined(packet.dts)
        packet.duration, packet.time_base = 1, self.time_base

    def _refined(self, ticks: int | None) -> int | None:
        return ticks if ticks is None or not self.coarse else round(ticks * self.of_file / self.time_base)

    def _after_the_last(self, ticks: int | None, step: int, following: av.Packet | None) -> int | None:
        """The time in ticks of a packet that is not the first; None if it must be skipped."""
        assert self.next is not None, "a packet came before"
        if ticks is None:
            return self.next
        time = ticks + self.shift
        if abs(time - self.next) * self.time_base > SPLICE_S:
            after = self._refined(_ticks(following)) if following is not None else None
            if after is not None and abs(after - ticks - step) * self.time_base > SPLICE_S:
                return self.next  # a single wrong time: the next packet does not continue from it
            if time < self.next:  # a new recording with its own clock starts here
                self.shift += self.next - time
                self.joined += 1
                return self.next
        if time > self.last:
            return time
        return self.next if (self.next - time) * self.time_base <= TOLERANCE_S else None


def _ticks(packet: av.Packet) -> int | None:
    return packet.dts if packet.dts is not None else packet.pts
