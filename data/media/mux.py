"""Muxes the finished video with the sound, subtitles, chapters and tags of the input.

A fault in one of these never loses the video: if the muxer fails, tracks and tags are left out until it succeeds. If it
fails without any of them, the video is kept beside the result.
"""

import io
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from common.logger import get_logger
from data.media.clock import time_base_of
from data.media.clock_jumps import find_jumps
from data.media.errors import MediaError, reason, shown
from data.media.extras import NOTHING, Extras, SubtitleTrack
from data.media.info import MediaInfo
from data.media.joined import JoinedPicture, Segment
from data.media.muxer import is_disk_error, muxer_options
from data.media.names import WRITABLE_VIDEOS
from data.media.sound_plan import SoundTrack
from data.media.sound_tracks import CopiedTrack, EncodedTrack, TrackWriter
from data.media.subtitle_tracks import ConvertedSubtitles, CopiedSubtitles
from data.media.video_file import open_container

logger = get_logger(__name__)

MOST_READ_ERRORS = 100  # read errors of the input after which the rest of its sound and subtitles is left out

# By codec, the muxers that get the encoder's codec tag: it names the profile of ProRes, and Apple's players need it.
TAGGED = {"prores": ("mov", "matroska"), "hevc": ("mp4", "mov")}

LONGEST_STEM = 200  # bytes of the name before suffixes; file systems limit the whole name to 255


def complete(
    segments: Sequence[Segment],
    result: Path,
    info: MediaInfo,
    tracks: Sequence[SoundTrack],
    extras: Extras,
    ticks: int,
    quiet: bool = False,
) -> None:
    """Mux a video with sound, subtitles and tags. The new file replaces the last segment of the video.

    Args:
        segments: complete files of the video without sound, in order.
        result: the final path; its suffix names the container.
        info: the input.
        tracks: the sound tracks of the input that the result gets.
        extras: the subtitles, chapters, covers, attachments and tags that the result gets.
        ticks: ticks of the video's clock per second.
        quiet: log faults at debug level only.

    Raises:
        MediaError: the muxer fails even without sound and extras (the disk is full, for instance). A video of one
            segment is kept beside the result, and the message says where. Of several segments, all but the last are
            kept, so that a later run resumes after them.
    """
    picture = segments[-1].path
    together = picture.with_name(f"{picture.stem}.s{result.suffix}")
    try:
        kept, kept_extras, faults = _first_that_completes(segments, together, result, info, tracks, extras, ticks)
        os.replace(together, picture)
    except Exception as error:
        if len(segments) > 1:
            what = "its frames are kept: correct the cause and repeat the command, which resumes after them"
            raise MediaError(f"{shown(result)}: cannot be completed ({reason(error)}); {what}") from error
        saved = _saved(picture, result)
        raise MediaError(
            f"{shown(result)}: cannot be completed ({reason(error)}); its frames are kept, without sound, in {saved}"
        ) from error
    finally:
        with suppress(OSError):  # an earlier error says more; the next run removes the file
            together.unlink(missing_ok=True)
    left_out = [f"{t.name} is left out, the file cannot be completed with it" for t in tracks if t not in kept]
    if kept_extras is not extras:
        left_out.append("tags, chapters, cover and subtitles are left out, the file cannot be completed with them")
    for fault in (*faults, *left_out):
        logger.log(logging.DEBUG if quiet else logging.WARNING, "%s: %s", shown(info.path), fault)


def _first_that_completes(
    segments: Sequence[Segment],
    together: Path,
    result: Path,
    info: MediaInfo,
    tracks: Sequence[SoundTrack],
    extras: Extras,
    ticks: int,
) -> tuple[Sequence[SoundTrack], Extras, list[str]]:
    """Write the file with the first choice of tracks and extras with which the muxer succeeds.

    Returns (the tracks in the file, the extras in the file, sentences about faults of the tracks).
    """
    for kept, kept_extras in _choices(tracks, extras):
        try:
            faults = _mux(segments, together, WRITABLE_VIDEOS[result.suffix.lower()], info, kept, kept_extras, ticks)
            return kept, kept_extras, faults
        except Exception as error:  # whatever the sound makes the decoder or the muxer raise
            if not (kept or kept_extras) or is_disk_error(error):
                raise
            logger.debug("%s: with %s: %s", shown(result), [t.name for t in kept], reason(error), exc_info=error)
    raise AssertionError("the last choice is no track at all")


def _choices(tracks: Sequence[SoundTrack], extras: Extras) -> Iterator[tuple[Sequence[SoundTrack], Extras]]:
    """What to try, in order: everything; all tracks without extras; all tracks but one; one track; no track."""
    yield tracks, extras
    if extras and tracks:
        yield tracks, NOTHING
    if len(tracks) > 2:
        yield from (([t for t in tracks if t is not left_out], NOTHING) for left_out in tracks)
    if len(tracks) > 1:
        yield from (([track], NOTHING) for track in tracks)
    yield (), NOTHING


def _mux(
    segments: Sequence[Segment],
    together: Path,
    form: str,
    info: MediaInfo,
    tracks: Sequence[SoundTrack],
    extras: Extras,
    ticks: int,
) -> list[str]:
    """Write the file `together` with FFmpeg's muxer `form`. Returns sentences about faults of the tracks."""
    with ExitStack() as stack:
        picture = JoinedPicture(segments, ticks, stack)
        options = muxer_options(form, ticks, keys=extras.keys)
        output = av.open(str(together.absolute()), "w", format=form, options=options)
        try:
            target = output.add_stream_from_template(picture.stream, opaque=True)
            target.codec_context.framerate = picture.stream.average_rate  # type: ignore[assignment]
            if form in TAGGED.get(picture.stream.codec_context.name, ()):
                target.codec_context.codec_tag = picture.stream.codec_context.codec_tag
            target.metadata.update(extras.video_tags)
            if alpha := picture.stream.metadata.get("alpha_mode"):  # the packets do not contain it
                target.metadata["alpha_mode"] = alpha
            target.disposition = av.stream.Disposition.default
            others = _OtherTracks(info, (*tracks, *extras.subtitles), output, picture.length, stack)
            until: Fraction | float = math.inf if info.cut is None else picture.length
            covers = _attach(output, extras, until, stack)
            output.start_encoding()
            output.mux(covers)
            for packet in picture.packets():
                others.copy_until(seconds_of(packet))
                packet.stream = target
                output.mux(packet)
            others.copy_until(math.inf)
        finally:
            output.close()
    return [fault for writer in others.writers.values() if (fault := writer.faults())]


def seconds_of(packet: av.Packet) -> Fraction:
    """The decoding time of a packet in seconds."""
    assert packet.dts is not None, "its times were set"
    return packet.dts * time_base_of(packet)


def _chapters_before(until: Fraction | float, chapters: Sequence[dict]) -> list[dict]:
    """The chapters that begin before a time in seconds; their ends are cut at this time."""
    if until == math.inf:
        return list(chapters)
    ends = [(chapter, min(chapter["end"], round(until / chapter["time_base"]))) for chapter in chapters]
    return [{**chapter, "end": end} for chapter, end in ends if chapter["start"] < end]


def _attach(
    output: av.container.OutputContainer, extras: Extras, until: Fraction | float, stack: ExitStack
) -> list[av.Packet]:
    """Add tags, chapters, covers and attachments to a container whose header is not written yet.

    Args:
        until: seconds at which chapters are cut; infinity: they are not cut.
        stack: closes the covers.

    Returns:
        Packets of the covers that the container stores as video streams, to be muxed after the header. Matroska stores
        covers as attachments instead.
    """
    output.metadata.update(extras.tags)
    if chapters := _chapters_before(until, extras.chapters):
        output.set_chapters(chapters)  # type: ignore[arg-type]  # dicts of the keys that a Chapter has
    packets = []
    for cover in extras.covers:
        if output.format.name == "matroska":
            output.add_attachment(cover.name, cover.mimetype, cover.data)
            continue
        still = stack.enter_context(
            av.open(io.BytesIO(cover.data), format=f"{cover.codec}_pipe".replace("mjpeg", "jpeg"))
        )
        stream = output.add_stream_from_template(still.streams.video[0], opaque=True)
        stream.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.data)
        packet.pts = packet.dts = 0
        packet.time_base = stream.time_base  # type: ignore[assignment]  # the setter takes None, too
        packet.stream = stream
        packets.append(packet)
    for file in extras.attachments:
        output.add_attachment(file.name, file.mimetype, file.data)
    return packets


WRITERS = {
    (SoundTrack, "copy"): CopiedTrack,
    (SoundTrack, "encode"): EncodedTrack,
    (SubtitleTrack, "copy"): CopiedSubtitles,
    (SubtitleTrack, "convert"): ConvertedSubtitles,
}


class _OtherTracks:
    """Copies the sound and subtitle tracks of the input to the output, interleaved with the video by time.

    Args:
        info: the input; its `time_origin` becomes zero.
        picture_s: duration of the video in seconds. If only a part of the clip is restored, nothing later is copied.
        stack: closes the input.
    """

    def __init__(
        self,
        info: MediaInfo,
        tracks: Sequence[SoundTrack | SubtitleTrack],
        output: av.container.OutputContainer,
        picture_s: Fraction,
        stack: ExitStack,
    ) -> None:
        self.info = info
        self.writers: dict[int, TrackWriter] = {}
        self.jumps = find_jumps(info.path) if tracks else None
        self.input = stack.enter_context(open_container(info.path)) if tracks else None
        until = None if info.cut is None else picture_s
        for track in tracks:
            kind = WRITERS[type(track), track.how]
            assert self.input is not None, "there are tracks"
            stream: Any = self.input.streams[track.index]
            self.writers[track.index] = kind(track, stream, output, info.time_origin, picture_s, until)
        self.placed = self._placed()
        self.next = next(self.placed, None)

    def copy_until(self, seconds: Fraction | float) -> None:
        """Copy all packets that start before this time in seconds. Infinity also flushes the encoders."""
        while self.next is not None and seconds_of(self.next) < seconds:
            self.writers[self.next.stream_index].write(self.next)
            self.next = next(self.placed, None)
        if seconds == math.inf:
            for writer in self.writers.values():
                writer.finish()

    def _placed(self) -> Iterator[av.Packet]:
        """The packets of the tracks, with times that increase within each track."""
        for packet in self._read():
            placed = self.writers[packet.stream_index].times.push(packet)
            if placed is not None:
                yield placed
        for writer in self.writers.values():
            placed = writer.times.push(None)
            if placed is not None:
                yield placed

    def _read(self) -> Iterator[av.Packet]:
        """The packets of the tracks, with clock jumps closed; damaged places of the input are skipped."""
        if self.input is None or self.jumps is None:  # there are no tracks
            return
        source, jumps = self.input, self.jumps
        streams = [source.streams[index] for index in self.writers]
        for _ in range(MOST_READ_ERRORS if streams else 0):
            try:
                for packet in source.demux(streams):
                    if packet.size:  # 0: the end of a stream
                        packet.pts = jumps.closed_ticks(packet.pts, time_base_of(packet))
                        packet.dts = jumps.closed_ticks(packet.dts, time_base_of(packet))
                        if self.writers[packet.stream_index].takes(packet):
                            yield packet
                return
            except av.FFmpegError as error:
                logger.debug("%s: damaged data beside the picture (%s)", shown(self.info.path), reason(error))


def _saved(picture: Path, result: Path) -> str:
    """Rename a video that cannot be muxed to `NAME.without_sound.mp4`. Returns the name, or the path if that fails."""
    stem = os.fsencode(result.stem)[:LONGEST_STEM].decode(errors="ignore")
    saved = result.with_name(f"{stem}.without_sound.mp4")
    try:
        os.replace(picture, saved)
    except OSError:
        return str(picture)
    return shown(saved)
