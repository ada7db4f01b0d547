"""When is a frame of an AVI shown? An AVI keeps only the times at which packets are decoded.

With B-frames, packets are not in display order, so a frame with its packet's time is shown at a wrong moment. The
decoder returns frames in display order, and every packet is one frame: so the k-th frame is shown at the k-th time.
"""

import heapq
from fractions import Fraction

import av

ONLY_DECODE_TIMES = ("avi",)  # containers, by FFmpeg's names


class DecodeTimes:
    """Gives frames the times of a container that has no display times.

    Args:
        stream: of the clip that is decoded.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.used = stream.container.format.name in ONLY_DECODE_TIMES
        self.waiting: list[int] = []
        self.time_base = stream.time_base or Fraction(1)  # PyAV has none for streams that are no clips

    def push(self, packet: av.Packet) -> None:
        """A packet goes into the decoder."""
        if self.used and packet.size and packet.dts is not None:
            heapq.heappush(self.waiting, packet.dts)

    def refuse(self, packet: av.Packet) -> None:
        """The decoder refused this packet, so it gives no frame."""
        if packet.dts in self.waiting:
            self.waiting.remove(packet.dts)
            heapq.heapify(self.waiting)

    def place(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, with its `pts` set where the container does not store it."""
        if self.waiting:
            frame.pts, frame.time_base = heapq.heappop(self.waiting), self.time_base
        return frame
