"""The name of a result, and its container."""

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol

import av

from data.media.clip_range import WHOLE, ClipRange
from data.media.find import is_probably_media
from data.media.sequence import clip_name, folder_of, is_sequence

WRITABLE_IMAGES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
WRITABLE_VIDEOS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
CONTAINERS = ("mp4", "mov", "mkv", "webm")  # that results can lie in
USUAL_CONTAINERS = ("mp4", "mov", "mkv")  # that take most codecs, in the order of choice

# Codecs that players accept, fewer than muxers accept. Matroska comes last, since it rounds times to milliseconds.
MP4_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac"})
MOV_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "alac", "amr_nb", "amr_wb"})
WEBM_AUDIO = frozenset({"opus", "vorbis"})  # and no other, by its definition

# Text subtitles can be converted to another text codec. Pictures cannot, and ASS loses its styles; Matroska carries
# both.
TEXT_SUBTITLES = frozenset(
    "subrip ass ssa webvtt text mov_text microdvd subviewer jacosub mpl2 sami realtext vplayer stl pjs".split()
)
NEED_MATROSKA = frozenset({"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "ass", "ssa"})


class Described(Protocol):
    """The facts on which a name depends; `MediaInfo` and `Probe` have them."""

    @property
    def kind(self) -> str: ...

    @property
    def audio_codecs(self) -> tuple[str, ...]: ...

    @property
    def subtitle_codecs(self) -> tuple[str, ...]: ...


def carries(suffix: str, codec: str) -> bool:
    """Whether a container takes this audio codec without re-encoding, in a way that players understand."""
    if suffix == ".mp4":
        return codec in MP4_AUDIO
    if suffix == ".webm":
        return codec in WEBM_AUDIO
    if suffix == ".mov" and codec not in MOV_AUDIO and not codec.startswith("pcm_"):
        return False
    return muxer_takes(suffix, codec)


def muxer_takes(suffix: str, codec: str) -> bool:
    """Whether FFmpeg's muxer of this suffix accepts the codec."""
    with av.open(io.BytesIO(), "w", format=WRITABLE_VIDEOS[suffix]) as scratch:
        try:
            scratch.add_mux_stream(codec)
        except (ValueError, av.FFmpegError):
            return False
    return True


def video_suffix(info: Described, containers: Sequence[str] = USUAL_CONTAINERS) -> str:
    """The first of some containers that takes every audio stream without re-encoding, else the last of them.

    A codec that no container takes (WMA, ADPCM, ...) is encoded anew in each of them, so it does not count. Subtitles
    that only Matroska carries unchanged make it .mkv.
    """
    suffixes = [f".{container}" for container in containers]
    if NEED_MATROSKA & set(info.subtitle_codecs) and ".mkv" in suffixes:
        return ".mkv"
    wanted = [codec for codec in info.audio_codecs if any(carries(suffix, codec) for suffix in WRITABLE_VIDEOS)]
    for suffix in suffixes:
        if suffix == suffixes[-1] or all(carries(suffix, codec) for codec in wanted):
            return suffix
    raise ValueError("a clip needs a container")


def output_path(
    input_path: str | PathLike[str],
    output_dir: str | PathLike[str],
    info: Described,
    *,
    frames_out: str | None = None,
    containers: Sequence[str] = USUAL_CONTAINERS,
    clip_range: ClipRange = WHOLE,
) -> Path:
    """Where the result of a file goes: the same stem, the suffix by what it is.

    Pictures keep their suffix where the format can be written and become PNG elsewhere. Videos and animations become
    MP4, or MOV or Matroska when only those take the audio or the subtitles as they are. When media of the same stem
    lie beside the input (`a.mov`, `a.mp4`), the one whose suffix changes carries its old suffix in its name
    (`a_mov.mp4`), so that no result overwrites another. Other files (subtitles, texts) have no result and need no
    name. A clip of numbered pictures has the name of their folder (`walk.mp4`; `walk_frames.mp4` beside other media of
    that stem).

    Args:
        frames_out: the result of a clip is a folder of pictures: the stem alone, with the old suffix (`a_mov`) where
            other media have that stem.
        containers: that the codec of a clip may lie in, see `Encoding.containers`.
        clip_range: the result is of this part of a clip, which the name shows (`clip_10s-12.5s.mp4`).
    """
    whole = _path_of_whole(Path(input_path), Path(output_dir), info, frames_out, containers)
    if not clip_range.applies_to(info.kind):
        return whole
    suffix = "" if frames_out else whole.suffix
    return whole.with_name(whole.name.removesuffix(suffix) + clip_range.label + suffix)


def _path_of_whole(
    source: Path, output_dir: Path, info: Described, frames_out: str | None, containers: Sequence[str]
) -> Path:
    """`output_path` of a file that is restored from its beginning to its end."""
    if is_sequence(source):
        return output_dir / _free_name(
            folder_of(source), clip_name(source), "frames", "" if frames_out else f".{containers[0]}"
        )
    suffix = source.suffix
    if info.kind == "image":
        suffix = suffix if suffix.lower() in WRITABLE_IMAGES else ".png"
    elif frames_out:
        suffix = ""
    elif suffix.lower() != video_suffix(info, containers):
        suffix = video_suffix(info, containers)
    if suffix == source.suffix and not (frames_out and info.kind != "image"):
        return output_dir / (source.stem + suffix)
    return output_dir / _free_name(source, source.stem, source.suffix[1:], suffix)


def _free_name(source: Path, stem: str, mark: str, suffix: str) -> str:
    """`stem` + `suffix`, marked where other media beside the input have this stem."""
    name = stem + suffix
    beside = list(source.parent.iterdir()) if source.parent.is_dir() else []
    # A folder beside a clip may hold pictures, whose results go into a folder of the same name (`--recursive`).
    folder = not suffix and any(e.name == stem != source.name and e.is_dir() for e in beside)
    if folder or any(entry.stem == stem and _competes(entry, source) for entry in beside):
        name = f"{stem}_{mark}{suffix}"
        # A result that is a folder has the stem of a file for its name; a folder may be a clip and have a result too.
        taken = {entry.name if suffix else entry.stem for entry in beside if _competes(entry, source)}
        taken |= {entry.name + suffix for entry in beside if entry.name != source.name and entry.is_dir()}
        while name in taken:
            name = f"{name.removesuffix(suffix)}_{suffix}"
    return name


def _competes(entry: Path, source: Path) -> bool:
    """Whether another entry of the folder is media, and so has a result of its own."""
    try:
        return entry.name != source.name and is_probably_media(entry)
    except OSError:
        return False
