"""Reads the facts of a file that a run needs at its start, with as little decoding as possible.

For a picture, the header is enough. Of a video one frame is decoded, since only a frame has the size and the rotation.
Damage after it is found when the file is read. Works without torch.
"""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from data.media.avif import avif_facts
from data.media.colour import BT709
from data.media.errors import MediaError, decoding, shown
from data.media.info import Kind
from data.media.orientation import orientation_of
from data.media.picture_file import (
    displayed_size,
    first_shown,
    holds_picture,
    is_animation,
    is_deep,
    open_picture,
    picture_colour,
    quiet_pillow,
)
from data.media.sequence import SEQUENCE_RATE, is_sequence, numbered
from data.media.video_file import choose_tracks, describe, first_frame, open_container


@dataclass(frozen=True)
class Probe:
    """The facts of a file that a run needs before it begins."""

    kind: Kind
    height: int  # pixels as displayed
    width: int  # pixels as displayed
    frame_count_hint: int | None  # approximate number of frames; None if the file does not state it
    audio_codecs: tuple[str, ...] = ()  # codecs of the sound tracks that can be read; `output_path` depends on them
    subtitle_codecs: tuple[str, ...] = ()  # codecs of the subtitle tracks; `output_path` depends on them
    depth: int = 8  # bits per sample
    primaries: int = BT709  # `Colour.primaries`
    transfer: int = BT709  # `Colour.transfer`
    transparent: bool = False  # whether the frames of a video have alpha
    duration: float | None = None  # seconds; None if the file does not state it


def probe(path: str | PathLike[str]) -> Probe:
    """Probe one file.

    Raises:
        MediaError: the file is missing, not media, too large, or damaged at its beginning. The sentence names the file.
    """
    path = Path(path)
    with decoding(path):
        if is_sequence(path):
            return _probe_sequence(path)
        if holds_picture(path):
            return _probe_picture(path)
        with open_container(path) as container:
            tracks = choose_tracks(container, path)
            tracks.video.codec_context.thread_count = 1  # for one frame; more threads take address space
            first = first_frame(container, tracks.video, path)
            info = describe(path, container, tracks, first, orientation_of(first).transpose)
    if min(info.height, info.width) < 1:
        raise MediaError(f"{shown(path)}: its frames have no pixels")
    return Probe(
        kind="video",
        height=info.height,
        width=info.width,
        frame_count_hint=info.frame_count_hint,
        audio_codecs=info.audio_codecs,
        subtitle_codecs=info.subtitle_codecs,
        depth=info.depth,
        primaries=info.colour.primaries,
        transfer=info.colour.transfer,
        transparent=info.transparent,
        duration=None if info.duration is None else float(info.duration),
    )


def _probe_sequence(path: Path) -> Probe:
    pictures = numbered(path).files
    first = _probe_picture(pictures[0])
    seconds = float(len(pictures) / SEQUENCE_RATE)
    return replace(first, kind="sequence", frame_count_hint=len(pictures), duration=seconds)


def _probe_picture(path: Path) -> Probe:
    with open_picture(path) as image, quiet_pillow():
        if is_animation(image):
            return Probe("animation", image.size[1], image.size[0], getattr(image, "n_frames", 1) - first_shown(image))
        facts = avif_facts(image, path)
        depth, colour = 16 if is_deep(image, facts) else 8, picture_colour(image, path, facts)
        return Probe(
            "image", *displayed_size(image), 1, depth=depth, primaries=colour.primaries, transfer=colour.transfer
        )
