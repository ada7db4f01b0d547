"""Where does the clock of a clip jump, although nothing was recorded in between?

In concatenated recordings, each one has its own clock, and the picture would freeze for the difference. Sound
distinguishes a jump from a picture that is really still (a slide show, a paused camera): at a still picture sound
continues; at a jump it stops and resumes together with the picture. A jump is closed to one frame step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from data.media.clock import nominal_rate
from data.media.video_file import choose_tracks, open_container

SHORTEST_JUMP_S = 2
LONGEST_PACKET_S = 1  # of sound; what is said to last longer is compared with the packets before it
SKEW_S = 2  # how far apart in a file the sound and the picture of one moment may be


@dataclass(frozen=True)
class Jump:
    """One jump of the clock, in seconds of the file's clock."""

    after: Fraction  # end of the last picture before the jump
    seconds: Fraction  # by which all later times are too late

    @property
    def middle(self) -> Fraction:
        return self.after + self.seconds / 2


class ClockJumps:
    """Finds the jumps from the packets of picture and sound, in the order of the file.

    Args:
        video: the stream of the picture; its jumps count.
        sounds: the audio streams. After its last packet, a track gives no evidence about the clock.

    Attributes:
        found: the jumps so far.
    """

    def __init__(self, video: av.VideoStream, sounds: Sequence[av.AudioStream] = ()) -> None:
        self.video = video.index
        self.promised = {
            sound.index: ((sound.start_time or 0) + sound.duration) * sound.time_base
            for sound in sounds
            if sound.duration and sound.time_base
        }
        rate, self.varies = nominal_rate(video)
        self.step = 1 / rate  # of a picture
        self.begun: Fraction | None = None  # the last picture
        self.end: Fraction | None = None  # of it
        self.longest: dict[int, Fraction] = {}  # packet of each track of sound
        self.sound_spans: dict[int, list[list[Fraction]]] = {}  # of each track: (start, end) of the last two
        self.found: list[Jump] = []

    def push(self, packet: av.Packet) -> None:
        """The next packet of the file."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or not packet.size:
            return
        start = ticks * packet.time_base
        if packet.stream_index != self.video:
            self._add_sound(packet.stream_index, start, start + self._lasts(packet))
            return
        if self.varies and self.begun is not None and 0 < start - self.begun < SHORTEST_JUMP_S:
            self.step = start - self.begun  # the mean has the jump in it
        if self.end is not None and start - self.end > SHORTEST_JUMP_S:
            jump = Jump(self.end, start - self.end)
            if any(self._jumps_too(index, jump) for index in self.sound_spans) and not any(
                self._goes_on(index, jump) for index in self.sound_spans
            ):
                self.found.append(jump)
        self.begun, self.end = start, start + self.step

    def closed(self, seconds: Fraction) -> Fraction:
        """A time of the file's clock without the jumps before it."""
        return seconds - sum(jump.seconds for jump in self.found if seconds > jump.middle)

    def closed_ticks(self, ticks: int | None, time_base: Fraction) -> int | None:
        """The same for a time in ticks."""
        if ticks is None or not self.found:
            return ticks
        return round(self.closed(ticks * time_base) / time_base)

    @property
    def seconds(self) -> Fraction:
        """By which the last times are too late."""
        return sum((jump.seconds for jump in self.found), Fraction(0))

    def describe(self, origin: Fraction) -> str | None:
        """The jumps in words; None where there is none. origin: of the clip, on the file's clock."""
        if not self.found:
            return None
        first, total = self.found[0], float(self.seconds)
        if len(self.found) == 1:
            return f"the clock jumps by {total:.2f} s at {float(first.after - origin):.2f} s, which was closed"
        return f"the clock jumps {len(self.found)} times, by {total:.2f} s in all, which was closed"

    def _lasts(self, packet: av.Packet) -> Fraction:
        """Seconds of a packet of sound. An MP4 says of the last one before a gap that it lasts until the next."""
        seconds, index = (packet.duration or 0) * packet.time_base, packet.stream_index
        if seconds > LONGEST_PACKET_S:
            return min(seconds, self.longest.get(index, seconds))
        self.longest[index] = max(seconds, self.longest.get(index, seconds))
        return seconds

    def _add_sound(self, track: int, start: Fraction, end: Fraction) -> None:
        spans = self.sound_spans.setdefault(track, [])
        if spans and -SKEW_S < start - spans[-1][1] < SHORTEST_JUMP_S / 2:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            self.sound_spans[track] = [*spans[-1:], [start, end]]

    def _jumps_too(self, index: int, jump: Jump) -> bool:
        """Whether a track of sound stops before the jump, and resumes after it or lasts longer by its header."""
        after, spans = jump.after + jump.seconds, self.sound_spans[index]
        stops = any(abs(end - jump.after) < SKEW_S for _, end in spans)
        goes_on = any(abs(start - after) < SKEW_S for start, _ in spans)
        return stops and (goes_on or self.promised.get(index, jump.after) > after - SKEW_S)

    def _goes_on(self, index: int, jump: Jump) -> bool:
        """Whether a track of sound has packets in the middle of the jump."""
        return any(start < jump.middle < end for start, end in self.sound_spans[index])


def find_jumps(path: Path) -> ClockJumps:
    """All jumps of a clip, which is read through, not decoded."""
    with open_container(path) as container:
        tracks = choose_tracks(container, path)
        jumps = ClockJumps(tracks.video, tracks.audio)
        packets = container.demux(tracks.video, *tracks.audio)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the demuxer continues with the next packet or ends
                continue
            if packet is None:
                return jumps
            jumps.push(packet)
