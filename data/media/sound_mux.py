"""How do a finished picture and the sound of the input become one file? By copying both into a new one.

No fault of sound costs the picture: a track that keeps the file from being completed is left out, and when nothing can
be completed, the picture is kept beside the result.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av

from common.logger import get_logger
from data.media.errors import MediaError, reason, shown
from data.media.info import MediaInfo
from data.media.muxer import is_disk_error, muxer_options
from data.media.names import WRITABLE_VIDEOS
from data.media.sound_plan import SoundTrack
from data.media.sound_tracks import CopiedTrack, EncodedTrack, TrackWriter
from data.media.video_file import open_container

logger = get_logger(__name__)

MOST_READ_ERRORS = 100  # of the input, before the rest of its sound is given up

LONGEST_STEM = 200  # bytes; with what is added it stays below the 255 of file systems


def complete_with_sound(
    picture: Path, result: Path, info: MediaInfo, tracks: Sequence[SoundTrack], ticks: int, quiet: bool = False
) -> None:
    """Put the sound of the input beside a picture; the file with both takes the picture's place.

    Args:
        picture: a complete MP4 of the picture alone.
        result: the file to be; its suffix names the container.
        info: the input.
        tracks: what goes over.
        ticks: of the picture's clock, per second.
        quiet: do not tell the faults of the sound.

    Raises:
        MediaError: not even the picture can be brought into the container (a full disk, for instance); it is kept as
            an MP4, and the message says where.
    """
    together = picture.with_name(f"{picture.stem}.s{result.suffix}")
    try:
        kept, faults = _first_that_completes(picture, together, result, info, tracks, ticks)
        os.replace(together, picture)
    except Exception as error:
        saved = _saved(picture, result)
        raise MediaError(
            f"{shown(result)}: cannot be completed ({reason(error)}); its frames are kept, without sound, in {saved}"
        ) from error
    finally:
        together.unlink(missing_ok=True)
    left_out = [f"{t.name} is left out, the file cannot be completed with it" for t in tracks if t not in kept]
    for fault in (*faults, *left_out):
        logger.log(logging.DEBUG if quiet else logging.WARNING, "%s: %s", shown(info.path), fault)


def _first_that_completes(
    picture: Path, together: Path, result: Path, info: MediaInfo, tracks: Sequence[SoundTrack], ticks: int
) -> tuple[Sequence[SoundTrack], list[str]]:
    """(the tracks in the file, what was wrong with them): as many tracks as the muxer completes a file with."""
    for kept in _choices(tracks):
        try:
            return kept, _mux(picture, together, WRITABLE_VIDEOS[result.suffix.lower()], info, kept, ticks)
        except Exception as error:  # whatever the sound makes the decoder or the muxer raise
            if not kept or is_disk_error(error):
                raise
            logger.debug("%s: with %s: %s", shown(result), [t.name for t in kept], reason(error), exc_info=error)
    raise AssertionError("the last choice is no track at all")


def _choices(tracks: Sequence[SoundTrack]) -> Iterator[Sequence[SoundTrack]]:
    """All tracks, all but one, one alone, none."""
    yield tracks
    if len(tracks) > 2:
        yield from ([t for t in tracks if t is not left_out] for left_out in tracks)
    if len(tracks) > 1:
        yield from ([track] for track in tracks)
    yield ()


def _mux(
    picture: Path, together: Path, form: str, info: MediaInfo, tracks: Sequence[SoundTrack], ticks: int
) -> list[str]:
    """Write the file; returns the faults of the tracks."""
    with ExitStack() as stack:
        source = stack.enter_context(av.open(str(picture.absolute())))
        output = av.open(str(together.absolute()), "w", format=form, options=muxer_options(form, ticks))
        try:
            shown_stream = source.streams.video[0]
            target = output.add_stream_from_template(shown_stream, opaque=True)
            target.codec_context.framerate = shown_stream.average_rate
            length = (shown_stream.duration or 0) * shown_stream.time_base
            sound = _Sound(info, tracks, output, length, stack)
            output.start_encoding()
            for packet in source.demux(shown_stream):
                if packet.size:
                    sound.copy_until(packet.dts * packet.time_base)
                    packet.stream = target
                    output.mux(packet)
            sound.copy_until(math.inf)
        finally:
            output.close()
    return [fault for writer in sound.writers.values() if (fault := writer.faults())]


class _Sound:
    """The tracks of the input on their way into the output, in the order of time.

    Args:
        info: the input; its `time_origin` becomes zero.
        picture_s: how long the picture is, in seconds.
        stack: closes the input.
    """

    def __init__(
        self,
        info: MediaInfo,
        tracks: Sequence[SoundTrack],
        output: av.container.OutputContainer,
        picture_s: Fraction,
        stack: ExitStack,
    ) -> None:
        self.info = info
        self.writers: dict[int, TrackWriter] = {}
        self.input = stack.enter_context(open_container(info.path)) if tracks else None
        for track in tracks:
            kind = CopiedTrack if track.how == "copy" else EncodedTrack
            stream = self.input.streams[track.index]
            self.writers[track.index] = kind(track, stream, output, info.time_origin, picture_s)
        self.placed = self._placed()
        self.next = next(self.placed, None)

    def copy_until(self, seconds: Fraction | float) -> None:
        """Move over every packet that starts before this time; all, and what is held back, for infinity."""
        while self.next is not None and self.next.dts * self.next.time_base < seconds:
            self.writers[self.next.stream_index].write(self.next)
            self.next = next(self.placed, None)
        if seconds == math.inf:
            for writer in self.writers.values():
                writer.finish()

    def _placed(self) -> Iterator[av.Packet]:
        """Packets with times that rise, track by track."""
        for packet in self._read():
            placed = self.writers[packet.stream_index].times.push(packet)
            if placed is not None:
                yield placed
        for writer in self.writers.values():
            placed = writer.times.push(None)
            if placed is not None:
                yield placed

    def _read(self) -> Iterator[av.Packet]:
        """Every packet of the tracks; damaged places of the input are stepped over."""
        streams = [self.input.streams[index] for index in self.writers]
        for _ in range(MOST_READ_ERRORS if streams else 0):
            try:
                for packet in self.input.demux(streams):
                    if packet.size:  # 0: the end of a stream
                        yield packet
                return
            except av.FFmpegError as error:
                logger.debug("%s: damaged sound (%s)", shown(self.info.path), reason(error))


def _saved(picture: Path, result: Path) -> str:
    """Give a picture that cannot be completed a name that says so."""
    stem = os.fsencode(result.stem)[:LONGEST_STEM].decode(errors="ignore")
    saved = result.with_name(f"{stem}.without_sound.mp4")
    try:
        os.replace(picture, saved)
    except OSError:
        return str(picture)
    return shown(saved)
