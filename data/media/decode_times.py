"""When is a frame shown, if the file says only when it is decoded?

An AVI keeps nothing else; MXF and ASF files of some programs have the times of decoding in place of those of display.
With B-frames, packets are not in display order, so a frame with its packet's time is shown at a wrong moment. The
decoder returns frames in display order, and every packet is one frame: so the k-th frame is shown at the k-th time.
"""

import heapq
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av

from data.media.video_file import choose_tracks, open_container

ONLY_DECODE_TIMES = ("avi",)  # containers, by FFmpeg's names
LOOKED_AT = 32  # packets of a clip whose frames may be reordered: more than lie between two that are not


class DecodeTimes:
    """Gives frames the times of a container that has no display times.

    Args:
        stream: of the clip that is decoded.
        path: its file.
    """

    def __init__(self, stream: av.VideoStream, path: Path) -> None:
        self.has_none = stream.container.format.name in ONLY_DECODE_TIMES
        self.used = self.has_none or (bool(stream.codec_context.has_b_frames) and times_only_rise(path))
        self.waiting: list[int] = []
        self.time_base = stream.time_base or Fraction(1)  # PyAV has none for streams that are no clips

    def _of(self, packet: av.Packet) -> int | None:
        return packet.dts if self.has_none else packet.pts

    def push(self, packet: av.Packet) -> None:
        """A packet goes into the decoder."""
        time = self._of(packet)
        if self.used and packet.size and time is not None:
            heapq.heappush(self.waiting, time)

    def refuse(self, packet: av.Packet) -> None:
        """The decoder refused this packet, so it gives no frame."""
        time = self._of(packet)
        if time in self.waiting:
            self.waiting.remove(time)
            heapq.heapify(self.waiting)

    def place(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, with its `pts` set where the container does not store it."""
        if self.waiting:
            frame.pts, frame.time_base = heapq.heappop(self.waiting), self.time_base
        return frame


def times_only_rise(path: Path) -> bool:
    """Whether the display times of a clip's first packets rise from packet to packet: those of B-frames would not."""
    with open_container(path) as container:
        stream = choose_tracks(container, path).video
        try:
            times = [packet.pts for packet in islice(container.demux(stream), LOOKED_AT) if packet.size]
        except av.FFmpegError:
            return False
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(a <= b for a, b in pairwise(known))
