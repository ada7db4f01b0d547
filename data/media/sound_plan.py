"""Which sound tracks does the output get, and how? The muxer and the decoder are tried before the run."""

import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av

from common.logger import get_logger
from data.media.errors import reason, shown
from data.media.info import MediaInfo
from data.media.names import WRITABLE_VIDEOS, carries
from data.media.tags import stream_tags
from data.media.unreadable import is_encrypted_packet
from data.media.video_file import choose_tracks, open_container

logger = get_logger(__name__)

TRIED_PACKETS = 8  # packets of each track that are tried
MOST_PACKETS = 5000  # packets of video and sound that are read for this; a track can be empty, or begin late


@dataclass(frozen=True)
class SoundTrack:
    """One sound track of the input that the output gets."""

    index: int  # index of the stream in the input
    name: str  # name for messages, such as "sound track 2 (wmav2)"
    how: Literal["copy", "encode"]  # "copy": packets are copied; "encode": decoded, and encoded as AAC or Opus
    tags: Mapping[str, str] = field(default_factory=dict)  # tags of the output track, such as language and title
    disposition: int = 0  # disposition of the output track, as FFmpeg's flags (default track, for instance)


def plan_sound(info: MediaInfo, suffix: str, metadata: bool = True) -> tuple[tuple[SoundTrack, ...], tuple[str, ...]]:
    """Plan the sound tracks of the output.

    A track that the container can store is copied; another one is re-encoded as AAC (Opus in WebM); one that is
    encrypted, or that can be neither copied nor decoded, is left out. Tracks of unknown codecs are not considered here,
    see `MediaReader.notes`.

    Args:
        info: the input.
        suffix: the suffix of the output, one of `WRITABLE_VIDEOS`.
        metadata: False leaves out all tags but the language.

    Returns:
        (the tracks that the output gets, sentences about those that change or are left out).
    """
    tracks, notes = [], []
    for stream, packets in _first_packets(info.path):
        codec = stream.codec_context.codec.canonical_name
        number = [s.index for s in stream.container.streams.audio].index(stream.index) + 1
        name = f"sound track {number} ({codec})"
        if any(is_encrypted_packet(packet) for packet in packets):
            notes.append(f"{shown(info.path)}: {name} is left out, it is encrypted")
            continue
        said = stream_tags(stream, suffix, metadata), int(stream.disposition)
        why_not = _why_not_copied(stream, packets, suffix, codec)
        if why_not is None:
            tracks.append(SoundTrack(stream.index, name, "copy", *said))
        elif _decodes(packets):
            tracks.append(SoundTrack(stream.index, name, "encode", *said))
            made = "Opus" if suffix == ".webm" else "AAC"
            notes.append(f"{shown(info.path)}: {name} does not fit into {suffix[1:]}; re-encoded as {made}")
        else:
            notes.append(f"{shown(info.path)}: {name} is left out, it can neither be copied nor decoded ({why_not})")
    return tuple(tracks), tuple(notes)


def _first_packets(path: Path) -> Iterator[tuple[av.AudioStream, list[av.Packet]]]:
    """Every audio stream with a known codec, and its first packets, at most `TRIED_PACKETS`."""
    with open_container(path) as container:
        tracks = choose_tracks(container, path)
        streams = tracks.audio
        found: dict[int, list[av.Packet]] = {stream.index: [] for stream in streams}
        try:
            for count, packet in enumerate(container.demux(tracks.video, *streams)):
                if packet.size and len(found.get(packet.stream_index, range(TRIED_PACKETS))) < TRIED_PACKETS:
                    found[packet.stream_index].append(packet)
                if count >= MOST_PACKETS or all(len(packets) >= TRIED_PACKETS for packets in found.values()):
                    break
        except av.FFmpegError as error:
            logger.debug("%s: damaged sound at its start (%s)", shown(path), error)
        for stream in streams:
            yield stream, found[stream.index]


def _why_not_copied(stream: av.AudioStream, packets: list[av.Packet], suffix: str, codec: str) -> str | None:
    """Why a container cannot store a track unchanged; None if it can. The packets are muxed in memory as a test.

    If there are no packets, because the track begins late, only the header is tested.
    """
    if not carries(suffix, codec):
        return f"{suffix[1:]} does not carry {codec}"
    taken, error_text = 0, ""
    try:
        with av.open(io.BytesIO(), "w", format=WRITABLE_VIDEOS[suffix]) as scratch:
            target = scratch.add_stream_from_template(stream)
            scratch.start_encoding()
            for number, packet in enumerate(packets):
                packet = _copy_at(packet, number * 1024)
                packet.stream = target
                try:
                    scratch.mux(packet)
                    taken += 1
                except (av.FFmpegError, ValueError) as error:
                    error_text = reason(error)
    except (av.FFmpegError, ValueError) as error:
        return reason(error)
    return None if taken or not packets else error_text


def _copy_at(packet: av.Packet, ticks: int) -> av.Packet:
    """A copy of a packet with the time `ticks`."""
    copy = av.Packet(bytes(packet))
    copy.pts = copy.dts = ticks
    copy.time_base = packet.time_base
    return copy


def _decodes(packets: list[av.Packet]) -> bool:
    """Whether one of the packets can be decoded. Without packets, because the track begins late, True is assumed."""
    for packet in packets:
        try:
            if packet.decode():
                return True
        except Exception as error:  # decoders raise anything; the next packet may be intact
            logger.debug("sound: %s", reason(error))
    return not packets


def logged_sound_plan(
    info: MediaInfo, suffix: str, quiet: bool = False, metadata: bool = True
) -> tuple[SoundTrack, ...]:
    """As `plan_sound`, with the sentences logged (at debug level if `quiet`); no tracks if they cannot be read."""
    try:
        tracks, notes = plan_sound(info, suffix, metadata)
    except Exception as error:  # an error of a sound track must not stop the restoration
        tracks, notes = (), (f"{shown(info.path)}: the sound is left out, it cannot be read ({reason(error)})",)
    for note in notes:
        logger.log(logging.DEBUG if quiet else logging.WARNING, "%s", note)
    return tracks
