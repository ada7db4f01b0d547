"""Reads a video file: its frames and their times.

Damage: a packet that the decoder refuses is skipped, and the frames around it keep their times; a frame whose errors
the decoder has concealed is kept. Both are counted and reported (`MediaReader.damage`). If nothing can be decoded after
the damage, or the file was cut, the iteration ends with a MediaError that says how many frames were read.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self

import av
from av.container import InputContainer

from common.logger import get_logger
from data.media.clip_alpha import TRANSPARENT, deep_over_white, laid_over_white
from data.media.clip_decoder import decoder_of
from data.media.clock import USUAL_RATE, Clock, nominal_rate, time_base_of
from data.media.clock_jumps import ClockJumps
from data.media.colour import ignored_colour_notes
from data.media.completeness import index_reaches_past_the_end, shortfall
from data.media.decode_times import DecodeTimes
from data.media.deinterlace import Deinterlacer
from data.media.errors import decoding, shown
from data.media.frame import Frame
from data.media.info import MediaError, MediaReader, middles
from data.media.orientation import orientation_of
from data.media.video_file import (
    Tracks,
    choose_tracks,
    describe,
    first_frame,
    frame_count_hint,
    has_captions,
    means_transparency,
    open_container,
)
from data.yuv.frames import planes_of, scaled_to
from data.yuv.layout import ChromaLocation

logger = get_logger(__name__)

Deinterlace = Literal["auto", "always", "never"]
Alpha = Literal["white", "keep"]


class VideoReader(MediaReader):
    """Reads the frames of a video, deinterlaced and with exact times; each one has its matrix, range and orientation.

    Args:
        path: the file.
        deinterlace: "auto" deinterlaces frames that are marked as interlaced, "always" all, "never" none.
        alpha: "keep" gives frames with their transparency, "white" composites them over white.

    Raises:
        MediaError: the file cannot be opened, or no frame can be decoded; during an iteration, see the module.
    """

    def __init__(self, path: Path, deinterlace: Deinterlace = "auto", alpha: Alpha = "white") -> None:
        self.path = path
        self.deinterlace, self.alpha = deinterlace, alpha
        self._running: list[av.container.InputContainer] = []
        with open_container(path) as container, decoding(path):
            tracks = choose_tracks(container, path)
            first = first_frame(container, tracks.video, path)
            self._orientation = orientation_of(first)
            self._coded_size = (first.width, first.height)
            self.info = describe(path, container, tracks, first, self._orientation.transpose)
            self.notes = tracks.notes
            self.notes += tuple(f"{shown(path)}: {note}" for note in ignored_colour_notes(first))
            if has_captions(first):
                self.notes += (f"{shown(path)}: closed captions inside the picture are left out",)
            self._noted_transparent = alpha == "white" and laid_over_white(first, tracks.video) is not None
            if self._noted_transparent:
                self.notes += (f"{shown(path)}: {TRANSPARENT}",)
            if alpha == "white":
                self.info = replace(self.info, transparent=False)

    def _frames(self) -> Generator[Frame]:
        container = open_container(self.path)
        self._running.append(container)
        self.damage, self._transparent = None, False
        try:
            tracks = choose_tracks(container, self.path)
            locations: dict[tuple, ChromaLocation] = {}
            for frame, time in self._progressive(container, tracks):
                yield self._with_alpha_resolved(frame, time, tracks.video, locations)
        finally:
            self._running.remove(container)
            container.close()

    def _with_alpha_resolved(
        self, decoded: av.VideoFrame, time: Fraction, stream: av.VideoStream, locations: dict[tuple, ChromaLocation]
    ) -> Frame:
        """A decoded frame with its transparency, or composited over white, as `alpha` says."""
        means = means_transparency(decoded, stream)
        if self.alpha == "keep" or not means:
            return self._as_planes(decoded, time, locations, alpha=means)
        if self.info.depth > 8:
            laid = deep_over_white(self._as_planes(decoded, time, locations, alpha=True), self.info.transfer)
            self._transparent = self._transparent or laid is not None
            return laid or self._as_planes(decoded, time, locations)
        over = laid_over_white(decoded, stream)
        self._transparent = self._transparent or over is not None
        return self._as_planes(over or decoded, time, locations)

    def _as_planes(
        self, decoded: av.VideoFrame, time: Fraction, locations: dict[tuple, ChromaLocation], alpha: bool = False
    ) -> Frame:
        """A decoded frame as a `Frame` of the clip's size.

        Args:
            locations: the chroma locations found so far, by size and pixel format, since finding one is slow; a new one
                is added.
            alpha: whether to keep the alpha plane.
        """
        kind = (decoded.width, decoded.height, decoded.format.name)
        planes, layout = planes_of(scaled_to(decoded, *self._coded_size), locations.get(kind))
        locations[kind] = layout.location
        if not alpha:
            planes, layout = planes[: layout.colour_planes], replace(layout, alpha=False)
        return Frame(planes, time, layout, self._orientation)

    def stills(self, count: int) -> list[Frame]:
        found = [] if self.info.duration is None else self.shown_at(middles(self.info.duration, count))
        return found if len(found) == count else super().stills(count)

    def shown_at(self, times: Sequence[Fraction]) -> list[Frame]:
        """The frames that are shown at increasing times in seconds, found by seeking; [] if seeking fails.

        A frame that is shown at several of the times is returned once. Interlaced frames are deinterlaced without their
        neighbours, so they can differ slightly from those of an iteration.
        """
        if self._noted_transparent:  # frames found by seeking are not composited over white
            return []
        found: dict[Fraction, Frame] = {}
        with open_container(self.path) as container:
            stream = choose_tracks(container, self.path).video
            for moment in times:
                try:
                    container.seek(int((moment + self.info.time_origin) / time_base_of(stream)), stream=stream)
                    frame, time = _last_until(moment, container.decode(stream), stream, self.info.time_origin)
                except (av.FFmpegError, ValueError) as error:
                    logger.debug("%s: no frame at %.3f s (%s)", shown(self.path), float(moment), error)
                    return []
                found.setdefault(time, self._as_planes(self._whole(frame, stream), time, {}))
        return list(found.values())

    def _whole(self, frame: av.VideoFrame, stream: av.VideoStream) -> av.VideoFrame:
        """The frame, deinterlaced if `deinterlace` asks for it."""
        if self.deinterlace != "always" and not (frame.interlaced_frame and self.deinterlace == "auto"):
            return frame
        fields = Deinterlacer(stream, only_flagged=False)
        return [*fields.push(frame, None), *fields.flush()][0][0]

    def reopened(self) -> Self:
        other = super().reopened()
        other._running, other.damage = [], None
        return other

    def close(self) -> None:
        for container in self._running:
            container.close()

    def _progressive(self, container: InputContainer, tracks: Tracks) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        """Decoded frames with their times in seconds; from the first interlaced frame on, they are deinterlaced."""
        stream = tracks.video
        clock = Clock(self.info.frame_rate or USUAL_RATE, time_base_of(stream), self.info.time_origin)
        filtered = Deinterlacer(stream, only_flagged=False) if self.deinterlace == "always" else None
        for frame in self._decode(container, tracks):
            time = clock.time_of(frame.pts)
            if filtered is None and frame.interlaced_frame and self.deinterlace == "auto":
                filtered = Deinterlacer(stream, only_flagged=True)
            yield from filtered.push(frame, time) if filtered else ((frame, time),)
        if filtered:
            yield from filtered.flush()

    def _decode(self, container: InputContainer, tracks: Tracks) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded, in display order, with jumps of the clock closed; sets `damage` at the end.

        Raises:
            MediaError: the rest of the file cannot be decoded or is missing.
        """
        stream, decode = tracks.video, decoder_of(tracks.video)
        seen, times, jumps = _Tally(), DecodeTimes(stream, self.path), ClockJumps(stream, tracks.audio)
        packets = container.demux(stream, *tracks.audio)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                jumps.push(packet)
                if packet.stream.index != stream.index:  # the empty packet at the end of a stream has no stream_index
                    continue
                if not packet.size and packet.dts is not None:  # an empty packet: the last picture stays
                    continue  # the decoder would take it for the end of the stream
                times.push(packet)
                frames = decode(packet)
                seen.decodes = seen.decodes or packet.size > 0
            except av.FFmpegError as error:
                seen.refused, seen.decodes = seen.refused + 1, False
                logger.debug("%s: damaged data after frame %d (%s)", shown(self.path), seen.frames, error)
                if packet is not None:
                    times.refuse(packet)
                continue  # the demuxer continues with the next packet or ends
            for frame in frames:
                frame = times.place(frame)
                frame.pts = jumps.closed_ticks(frame.pts, time_base_of(stream))
                seen.add(frame, stream)
                yield frame
        self.damage = self._find_damage(container, stream, seen, jumps)

    def _find_damage(
        self, container: InputContainer, stream: av.VideoStream, seen: "_Tally", jumps: ClockJumps
    ) -> str | None:
        """What was damaged, lost or changed, as a sentence, or None. MediaError if the last frames are missing."""
        if not seen.decodes or index_reaches_past_the_end(stream, self.path):
            promised = frame_count_hint(container, stream)
            raise _cut(self.path, seen.frames, f"{promised or 'an unknown number of'} frames")
        step = seen.step(stream)
        end = step * seen.frames if seen.last is None else seen.last + step
        missing = shortfall(self.path, container, stream, seen.frames, end + jumps.seconds, step)
        if missing and missing.cut and missing.frames_missing:
            raise _cut(self.path, seen.frames, missing.promised)
        lost = [jumped] if (jumped := jumps.describe(self.info.time_origin)) else []
        if self._transparent and not self._noted_transparent:
            lost.append(TRANSPARENT)
        if seen.refused:
            lost.append(f"damaged data was skipped in {seen.refused} {'place' if seen.refused == 1 else 'places'}")
        if seen.concealed:
            lost.append(f"{seen.concealed} damaged {'frame was' if seen.concealed == 1 else 'frames were'} patched up")
        if missing and missing.frames_missing:
            lost.append(f"the header promises {missing.promised}")
        elif missing:
            lost.append(f"the file ends at {self.path.stat().st_size} of {missing.promised}, after its last frame")
        return f"{shown(self.path)}: {', '.join(lost)}; {seen.frames} frames were read" if lost else None


def _cut(path: Path, frames: int, promised: str) -> MediaError:
    return MediaError(
        f"{shown(path)}: only {frames} of {promised} could be decoded, the rest of the file is damaged or missing; "
        "get a complete copy, or cut the clip to its readable part"
    )


def _last_until(
    moment: Fraction, frames: Iterator[av.VideoFrame], stream: av.VideoStream, origin: Fraction
) -> tuple[av.VideoFrame, Fraction]:
    """The last frame that begins at or before a moment, and its time in seconds from `origin`.

    ValueError if all frames begin after the moment, or one has no time.

    Args:
        moment: seconds from `origin`, which is in seconds of the stream's clock.
        frames: decoded frames in display order, from a point at or before the moment.
    """
    last = None
    for frame in frames:
        if frame.pts is None:
            raise ValueError("a frame without a time")
        time = frame.pts * time_base_of(stream) - origin
        if time > moment:
            break
        last = frame, time
    if last is None:
        raise ValueError("the decoder did not seek far enough back")
    return last


@dataclass
class _Tally:
    """Counts of one iteration over a clip."""

    frames: int = 0  # decoded frames
    refused: int = 0  # packets that the decoder refused
    concealed: int = 0  # frames with errors that the decoder concealed
    decodes: bool = True  # whether a packet was decoded since the last refused one
    first: Fraction | None = None  # earliest start of a frame, in seconds from the container's start
    last: Fraction | None = None  # latest start of a frame, in seconds from the container's start

    def add(self, frame: av.VideoFrame, stream: av.VideoStream) -> None:
        self.frames += 1
        self.concealed += frame.is_corrupt
        if frame.pts is not None:
            assert isinstance(stream.container, InputContainer), "frames are read"
            time = frame.pts * time_base_of(stream) - Fraction(stream.container.start_time or 0, av.time_base)
            self.first = time if self.first is None else min(self.first, time)
            self.last = time if self.last is None else max(self.last, time)

    def step(self, stream: av.VideoStream) -> Fraction:
        """Seconds from frame to frame: 1 / nominal rate, or the mean if that is more than twice as long."""
        nominal = 1 / nominal_rate(stream)[0]
        if self.frames < 2 or self.first is None or self.last is None:
            return nominal
        mean = (self.last - self.first) / (self.frames - 1)
        return mean if mean > 2 * nominal else nominal
