"""Which name and which container does a result get?"""

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
CONTAINERS = ("mp4", "mov", "mkv", "webm")  # containers of results
USUAL_CONTAINERS = ("mp4", "mov", "mkv")  # containers that take most codecs, in order of preference

# Codecs that players accept, which are fewer than muxers accept. Matroska is the last choice, since it rounds times to
# milliseconds.
MP4_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac"})
MOV_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "alac", "amr_nb", "amr_wb"})
WEBM_AUDIO = frozenset({"opus", "vorbis"})  # the WebM specification allows no others

# Text subtitles can be converted to another text codec. Subtitles that are pictures cannot, and ASS loses its styles;
# Matroska stores both unchanged.
TEXT_SUBTITLES = frozenset(
    "subrip ass ssa webvtt text mov_text microdvd subviewer jacosub mpl2 sami realtext vplayer stl pjs".split()
)
NEED_MATROSKA = frozenset({"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "ass", "ssa"})


class Described(Protocol):
    """The facts of a file on which the name of its result depends; `MediaInfo` and `Probe` have them."""

    @property
    def kind(self) -> str: ...

    @property
    def audio_codecs(self) -> tuple[str, ...]: ...

    @property
    def subtitle_codecs(self) -> tuple[str, ...]: ...


def carries(suffix: str, codec: str) -> bool:
    """Whether a container can store this audio codec without re-encoding, so that common players play it.

    Args:
        suffix: one of `WRITABLE_VIDEOS`.
        codec: FFmpeg's name of the codec.
    """
    if suffix == ".mp4":
        return codec in MP4_AUDIO
    if suffix == ".webm":
        return codec in WEBM_AUDIO
    if suffix == ".mov" and codec not in MOV_AUDIO and not codec.startswith("pcm_"):
        return False
    return muxer_takes(suffix, codec)


def muxer_takes(suffix: str, codec: str) -> bool:
    """Whether FFmpeg's muxer for this suffix, one of `WRITABLE_VIDEOS`, accepts the codec."""
    with av.open(io.BytesIO(), "w", format=WRITABLE_VIDEOS[suffix]) as scratch:
        try:
            scratch.add_mux_stream(codec)
        except (ValueError, av.FFmpegError):
            return False
    return True


def video_suffix(info: Described, containers: Sequence[str] = USUAL_CONTAINERS) -> str:
    """The suffix of the first container that takes every audio stream without re-encoding, otherwise of the last one.

    Audio codecs that no container takes (WMA, ADPCM, ...) are re-encoded in any case, so they do not count. Subtitles
    that only Matroska stores unchanged give .mkv, if it is among the containers.

    Args:
        containers: at least one of `CONTAINERS`, in order of preference.

    Raises:
        ValueError: there are no containers.
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
    """The path of the result of a file: it has the input's stem, and a suffix for its format.

    Pictures keep their suffix if that format can be written; otherwise they become PNG. Videos and animations become
    MP4, or MOV or Matroska if only those take the audio or the subtitles unchanged. If other media with the same stem
    are beside the input (`a.mov`, `a.mp4`), a result whose suffix differs from its input's has the old suffix in its
    name (`a_mov.mp4`), so that no result overwrites another. Other files (subtitles, texts) have no results, so they do
    not count. The result of numbered pictures has the name of their folder (`walk.mp4`, or `walk_frames.mp4` beside
    other media of that stem).

    Args:
        input_path: the input.
        output_dir: the folder of the result.
        info: the facts of the input.
        frames_out: if set, the result of a clip is a folder of pictures, named by the stem alone, with the old suffix
            (`a_mov`) if other media have that stem.
        containers: containers that the codec of a clip can be in, in order of preference, see `Encoding.containers`.
        clip_range: the part of a clip that is restored, which the name shows (`clip_10s-12.5s.mp4`).
    """
    whole = _path_of_whole(Path(input_path), Path(output_dir), info, frames_out, containers)
    if not clip_range.applies_to(info.kind):
        return whole
    suffix = "" if frames_out else whole.suffix
    return whole.with_name(whole.name.removesuffix(suffix) + clip_range.label + suffix)


def _path_of_whole(
    source: Path, output_dir: Path, info: Described, frames_out: str | None, containers: Sequence[str]
) -> Path:
    """`output_path` for a file that is restored as a whole."""
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
    """`stem` + `suffix`; `mark` is inserted if other media beside the input have this stem."""
    name = stem + suffix
    beside = list(source.parent.iterdir()) if source.parent.is_dir() else []
    # A folder beside a clip may hold pictures, whose results go into a folder of the same name (`--recursive`).
    folder = not suffix and any(e.name == stem != source.name and e.is_dir() for e in beside)
    if folder or any(entry.stem == stem and _competes(entry, source) for entry in beside):
        name = f"{stem}_{mark}{suffix}"
        # A result that is a folder is named by the stem of its input; a folder may be a clip, which has a result too.
        taken = {entry.name if suffix else entry.stem for entry in beside if _competes(entry, source)}
        taken |= {entry.name + suffix for entry in beside if entry.name != source.name and entry.is_dir()}
        while name in taken:
            name = f"{name.removesuffix(suffix)}_{suffix}"
    return name


def _competes(entry: Path, source: Path) -> bool:
    """Whether another entry of the folder is media, so that its result could have the same name."""
    try:
        return entry.name != source.name and is_probably_media(entry)
    except OSError:
        return False
