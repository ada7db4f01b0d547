"""Which subtitles, chapters, tags, covers and attachments of a clip does the output get?

This is decided before the first frame is written, so that the log says at the start what is left out.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
from av.container import InputContainer

from common.logger import get_logger, printable
from data.media.errors import reason, shown
from data.media.info import MediaInfo
from data.media.names import TEXT_SUBTITLES, muxer_takes
from data.media.tags import QUICKTIME, carried, global_tags, stream_tags, with_apple_place
from data.media.timecode import timecode_after
from data.media.video_file import choose_tracks, open_container

logger = get_logger(__name__)

COVERS_OF_MP4 = ("mjpeg", "png", "bmp")
_D = av.stream.Disposition
DISPOSITIONS = {  # dispositions of sound and subtitle tracks that FFmpeg writes and reads back, by suffix
    ".mp4": _D.default | _D.dub | _D.comment | _D.forced | _D.hearing_impaired | _D.visual_impaired | _D.captions
    | _D.descriptions,
    ".mov": _D.default,
    ".mkv": _D.default | _D.dub | _D.original | _D.comment | _D.forced | _D.hearing_impaired | _D.visual_impaired,
    ".webm": _D.default | _D.dub | _D.original | _D.comment | _D.forced | _D.hearing_impaired | _D.visual_impaired,
}  # fmt: skip
MIMETYPES = {"mjpeg": "image/jpeg", "png": "image/png", "bmp": "image/bmp", "gif": "image/gif", "webp": "image/webp"}
TEXT_CODECS = {".mp4": "mov_text", ".mov": "mov_text", ".webm": "webvtt"}  # the only subtitle codec of these containers
KEPT_BY_MATROSKA = "Matroska (.mkv) would take"


@dataclass(frozen=True)
class Attached:
    """A cover picture or another file inside a clip."""

    name: str  # name of the file
    mimetype: str  # MIME type, such as "image/jpeg"
    data: bytes = field(repr=False)  # content of the file
    codec: str = ""  # FFmpeg's codec name of a cover; "" for other files


@dataclass(frozen=True)
class SubtitleTrack:
    """One subtitle track that the output gets."""

    index: int  # index of the stream in the input
    name: str  # name for messages, such as "subtitle track 2 (ass)"
    how: Literal["copy", "convert"]  # "copy": packets are copied; "convert": text is converted to another text codec
    tags: Mapping[str, str]  # tags of the output track
    disposition: int  # disposition of the output track, as FFmpeg's flags


@dataclass(frozen=True)
class Extras:
    """What the output gets besides video and sound."""

    tags: Mapping[str, str] = field(default_factory=dict)  # tags of the file
    video_tags: Mapping[str, str] = field(default_factory=dict)  # tags of the video track
    keys: bool = False  # whether the tags are written as QuickTime keys
    chapters: tuple[dict, ...] = ()  # chapters in PyAV's form; their times count from the clip's zero
    covers: tuple[Attached, ...] = ()  # cover pictures
    attachments: tuple[Attached, ...] = ()  # other attached files, such as fonts
    subtitles: tuple[SubtitleTrack, ...] = ()  # subtitle tracks

    def __bool__(self) -> bool:
        return any((self.tags, self.video_tags, self.chapters, self.covers, self.attachments, self.subtitles))


NOTHING = Extras()


def logged_extras(
    info: MediaInfo, suffix: str, rate: Fraction, *, metadata: bool = True, timed: bool = True, quiet: bool = False
) -> Extras:
    """Decide what the output gets, and log a line for each kind that is left out or changes.

    The result is empty if the input is not a video, or its extras cannot be read.

    Args:
        info: the input.
        suffix: the suffix of the output, one of `WRITABLE_VIDEOS`.
        rate: frames per second of the output.
        metadata: False leaves out tags, covers and attached files.
        timed: False leaves out subtitles and chapters, whose times would be wrong.
        quiet: log at debug level only.
    """
    if info.kind != "video" or not info.path.is_file():
        return NOTHING
    try:
        extras, notes = plan_extras(info, suffix, rate, metadata, timed)
    except Exception as error:  # an error of a subtitle or a tag must not stop the restoration
        extras, notes = NOTHING, [f"tags, chapters and subtitles are left out, they cannot be read ({reason(error)})"]
    for note in notes:
        logger.log(logging.DEBUG if quiet else logging.WARNING, "%s: %s", shown(info.path), note)
    return extras


def plan_extras(info: MediaInfo, suffix: str, rate: Fraction, metadata: bool, timed: bool) -> tuple[Extras, list[str]]:
    """(what the output gets, sentences about what is left out or changes); see `logged_extras` for the arguments."""
    with open_container(info.path) as container:
        video = choose_tracks(container, info.path).video
        subtitles, notes = _subtitles(container, suffix, metadata)
        chapters = tuple(_chapters(container, info.time_origin, metadata))
        if not timed:
            if subtitles or chapters:
                notes.append("subtitles and chapters are left out, their times would be wrong")
            subtitles, chapters = (), ()
        if lost := _lost_dispositions(container, suffix):
            notes.append(f"marks of tracks left out, {suffix[1:]} has no place for them: {', '.join(lost)}")
        data = [s for s in container.streams.data if not _belongs_to_quicktime(s, len(chapters))]
        if data:
            notes.append(f"{_count(len(data), 'data track')} (measurements, commands) left out")
        if not metadata:
            return Extras(chapters=chapters, subtitles=subtitles), notes
        covers, attachments = _covers(container), _attachments(container)
        tags, video_tags = global_tags(container), stream_tags(video, suffix)
    if info.cut and "timecode" in tags and info.frame_rate:
        tags["timecode"] = timecode_after(tags["timecode"], round(info.cut * info.frame_rate), info.frame_rate)
    if suffix != ".mkv":
        kept = tuple(cover for cover in covers if suffix == ".mp4" and cover.codec in COVERS_OF_MP4)
        if covers != kept:
            notes.append(f"{_count(len(covers) - len(kept), 'cover picture')} left out; {KEPT_BY_MATROSKA} it")
        if attachments:
            notes.append(f"{_count(len(attachments), 'attached file')} left out; {KEPT_BY_MATROSKA} it")
        covers, attachments = kept, ()
    tags, keys, lost = _tags(tags, suffix, rate, bool(covers))
    if lost:
        notes.append(f"tags left out, {suffix[1:]} has no place for them: {printable(', '.join(lost))}")
    return Extras(tags, video_tags, keys, chapters, covers, attachments, subtitles), notes


def _subtitles(container: InputContainer, suffix: str, metadata: bool) -> tuple[tuple[SubtitleTrack, ...], list[str]]:
    tracks: list[SubtitleTrack] = []
    left_out: list[str] = []
    converted: list[str] = []
    how: Literal["copy", "convert"] | None
    for number, stream in enumerate(container.streams.subtitles, start=1):
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown codec"
        if stream.codec_context is None:
            how = None
        elif codec == TEXT_CODECS[suffix] if suffix in TEXT_CODECS else muxer_takes(suffix, codec):
            how = "copy"
        else:
            how = "convert" if codec in TEXT_SUBTITLES else None
        name = f"subtitle track {number} ({codec})"
        (left_out if how is None else converted if how == "convert" else []).append(f"{number} ({codec})")
        if how is not None:
            tags = stream_tags(stream, suffix, metadata)
            tracks.append(SubtitleTrack(stream.index, name, how, tags, int(stream.disposition)))
    notes = []
    if converted:
        notes.append(f"subtitles become plain text in {suffix[1:]}: {', '.join(converted)}")
    if left_out:
        notes.append(f"subtitles left out, {suffix[1:]} does not carry them: {', '.join(left_out)}")
    return tuple(tracks), notes


def _lost_dispositions(container: InputContainer, suffix: str) -> list[str]:
    tracks = [*container.streams.audio, *container.streams.subtitles]
    lost = {str(flag.name) for stream in tracks for flag in _D(stream.disposition & ~DISPOSITIONS[suffix])}
    return sorted(lost)


def _chapters(container: InputContainer, origin: Fraction, metadata: bool) -> Iterable[dict]:
    for chapter in container.chapters():
        shift = round(origin / Fraction(chapter["time_base"] or 1))
        start, end = max(chapter["start"] - shift, 0), chapter["end"] - shift
        if end >= start:
            title = {name: text for name, text in chapter["metadata"].items() if metadata or name == "title"}
            yield {**chapter, "start": start, "end": end, "metadata": title}


def _covers(container: InputContainer) -> tuple[Attached, ...]:
    covers = []
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic or stream.codec_context is None:
            continue
        codec = stream.codec_context.codec.canonical_name
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        if packet is not None:
            ending = MIMETYPES.get(codec, "/bin").split("/")[1].replace("jpeg", "jpg")
            name = stream.metadata.get("filename") or stream.metadata.get("FILENAME") or f"cover.{ending}"
            covers.append(Attached(name, MIMETYPES.get(codec, "application/octet-stream"), bytes(packet), codec))
    return tuple(covers)


def _attachments(container: InputContainer) -> tuple[Attached, ...]:
    files = []
    for number, stream in enumerate((s for s in container.streams if s.type == "attachment"), start=1):
        names = {name.lower(): value for name, value in stream.metadata.items()}
        mimetype = getattr(stream, "mimetype", None) or "application/octet-stream"
        files.append(
            Attached(names.get("filename", f"attachment {number}"), mimetype, bytes(getattr(stream, "data", b"")))
        )
    return tuple(files)


def _tags(tags: dict, suffix: str, rate: Fraction, covers: bool) -> tuple[dict, bool, list[str]]:
    """(the tags that are written, whether they are written as QuickTime keys, names of the tags that are left out).

    QuickTime keys may have any name, but FFmpeg cannot write a cover beside them, and fewer players show them. So they
    are used only if they keep more tags than ordinary ones, and there is no cover.
    """
    kept, keys = carried(tags, suffix, rate, False), False
    if len(kept) < len(tags) and suffix in QUICKTIME and not covers:
        named = carried(with_apple_place(tags), suffix, rate, True)
        if len(named) > len(kept):
            kept, keys = named, True
    if not kept and tags.get("timecode"):  # the muxer writes no file with an invalid timecode
        kept, keys, _ = _tags({name: tags[name] for name in tags if name != "timecode"}, suffix, rate, covers)
    return kept, keys, sorted(set(tags) - set(kept))


def _belongs_to_quicktime(stream: av.stream.Stream, chapters: int) -> bool:
    """Whether a data track holds the timecode or the titles of chapters, which the output gets by other means."""
    names = {name.lower(): value for name, value in stream.metadata.items()}
    handler = names.get("handler_name")
    titles = chapters and (stream.frames == chapters or handler == "SubtitleHandler")  # FFmpeg's text tracks
    return bool(titles) or "timecode" in names or handler == "TimeCodeHandler"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
