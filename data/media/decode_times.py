"""When is a frame shown, if the file states only when it is decoded?

AVI stores no display times, and some programs write decoding times in place of display times into MXF and ASF files.
With B-frames, packets are not in display order, so a frame must not get the time of its packet. The decoder returns
frames in display order, one for each packet, so the k-th frame gets the k-th smallest time.
"""

import heapq
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av

from data.media.video_file import choose_tracks, open_container

ONLY_DECODE_TIMES = ("avi",)  # FFmpeg's names of containers without display times
LOOKED_AT = 32  # packets: enough to contain reordered frames, if the clip has any


class DecodeTimes:
    """Gives frames display times if the container has only decoding times; otherwise changes nothing.

    Args:
        stream: the video stream that is decoded.
        path: its file, which is opened a second time if frames may be reordered.
    """

    def __init__(self, stream: av.VideoStream, path: Path) -> None:
        self.has_none = stream.container.format.name in ONLY_DECODE_TIMES
        self.used = self.has_none or (bool(stream.codec_context.has_b_frames) and times_only_rise(path))
        self.waiting: list[int] = []
        self.time_base = stream.time_base or Fraction(1)  # video streams have one

    def _of(self, packet: av.Packet) -> int | None:
        return packet.dts if self.has_none else packet.pts

    def push(self, packet: av.Packet) -> None:
        """Note the time of a packet that is given to the decoder."""
        time = self._of(packet)
        if self.used and packet.size and time is not None:
            heapq.heappush(self.waiting, time)

    def refuse(self, packet: av.Packet) -> None:
        """Drop the time of a packet that the decoder refused, since no frame comes from it."""
        time = self._of(packet)
        if time in self.waiting:
            self.waiting.remove(time)
            heapq.heapify(self.waiting)

    def place(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the frame; its `pts` and `time_base` are set if the container has no display times."""
        if self.waiting:
            frame.pts, frame.time_base = heapq.heappop(self.waiting), self.time_base
        return frame


def times_only_rise(path: Path) -> bool:
    """Whether the display times of a clip's first packets never decrease, which is impossible for B-frames.

    False if a packet has no time, or the packets cannot be read.
    """
    with open_container(path) as container:
        stream = choose_tracks(container, path).video
        try:
            times = [packet.pts for packet in islice(container.demux(stream), LOOKED_AT) if packet.size]
        except av.FFmpegError:
            return False
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(a <= b for a, b in pairwise(known))
