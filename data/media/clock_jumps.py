"""Where does the clock of a clip jump, although nothing was recorded in between?

In concatenated recordings, each one has its own clock, so the picture would freeze at the joint for the difference of
the clocks. Sound distinguishes such a jump from a picture that is really still (a slide show, a paused camera): it
continues during a still picture, and stops and resumes together with the picture at a jump. Closing a jump moves all
later times back, so that one frame step remains of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from data.media.clock import nominal_rate
from data.media.video_file import choose_tracks, open_container

SHORTEST_JUMP_S = 2
LONGEST_PACKET_S = 1  # of sound; if the file states a longer duration, it is limited to that of the packets before
SKEW_S = 2  # how much the times of sound and picture may differ at the ends of a jump


@dataclass(frozen=True)
class Jump:
    """One jump of the clock, in seconds of the file's clock."""

    after: Fraction  # end of the last frame before the jump
    seconds: Fraction  # length of the jump: all later times are too late by this much

    @property
    def middle(self) -> Fraction:
        return self.after + self.seconds / 2


class ClockJumps:
    """Finds clock jumps from the packets of video and sound, in the order of the file.

    Args:
        video: the video stream, whose jumps are found.
        sounds: the audio streams, which must jump too.

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
        self.step = 1 / rate  # duration of a frame
        self.begun: Fraction | None = None  # start of the last frame
        self.end: Fraction | None = None  # end of the last frame
        self.longest: dict[int, Fraction] = {}  # the longest packet of each sound track
        self.sound_spans: dict[int, list[list[Fraction]]] = {}  # [start, end] of each track's last two spans of sound
        self.found: list[Jump] = []

    def push(self, packet: av.Packet) -> None:
        """Add the next packet of the file, of the video or of a sound track."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None or not packet.size:
            return
        start = ticks * packet.time_base
        if packet.stream_index != self.video:
            self._add_sound(packet.stream_index, start, start + self._lasts(packet))
            return
        if self.varies and self.begun is not None and 0 < start - self.begun < SHORTEST_JUMP_S:
            self.step = start - self.begun  # the mean rate of the header includes the jump
        if self.end is not None and start - self.end > SHORTEST_JUMP_S:
            jump = Jump(self.end, start - self.end)
            if any(self._jumps_too(index, jump) for index in self.sound_spans) and not any(
                self._goes_on(index, jump) for index in self.sound_spans
            ):
                self.found.append(jump)
        self.begun, self.end = start, start + self.step

    def closed(self, seconds: Fraction) -> Fraction:
        """A time of the file's clock, moved back by the jumps before it."""
        return seconds - sum(jump.seconds for jump in self.found if seconds > jump.middle)

    def closed_ticks(self, ticks: int | None, time_base: Fraction) -> int | None:
        """As `closed`, for a time in ticks of `time_base` seconds."""
        if ticks is None or not self.found:
            return ticks
        return round(self.closed(ticks * time_base) / time_base)

    @property
    def seconds(self) -> Fraction:
        """The sum of all jumps: the latest times are too late by this much."""
        return sum((jump.seconds for jump in self.found), Fraction(0))

    def describe(self, origin: Fraction) -> str | None:
        """The jumps in words, for a message; None if there are none.

        Args:
            origin: the clip's time zero, in seconds of the file's clock.
        """
        if not self.found:
            return None
        first, total = self.found[0], float(self.seconds)
        if len(self.found) == 1:
            return f"the clock jumps by {total:.2f} s at {float(first.after - origin):.2f} s, which was closed"
        return f"the clock jumps {len(self.found)} times, by {total:.2f} s in all, which was closed"

    def _lasts(self, packet: av.Packet) -> Fraction:
        """Duration of a sound packet in seconds. In an MP4, the stated duration of the last one includes the gap."""
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
        """Whether a sound track stops at the jump, and resumes after it or goes on after it by the file's header."""
        after, spans = jump.after + jump.seconds, self.sound_spans[index]
        stops = any(abs(end - jump.after) < SKEW_S for _, end in spans)
        goes_on = any(abs(start - after) < SKEW_S for start, _ in spans)
        return stops and (goes_on or self.promised.get(index, jump.after) > after - SKEW_S)

    def _goes_on(self, index: int, jump: Jump) -> bool:
        """Whether a sound track plays in the middle of the jump."""
        return any(start < jump.middle < end for start, end in self.sound_spans[index])


def find_jumps(path: Path) -> ClockJumps:
    """Find all jumps of a clip. Reads all of its packets and decodes none; MediaError if it cannot be opened."""
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
