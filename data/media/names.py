"""What is the result called, and in which container does it go?"""

from os import PathLike
from pathlib import Path

from data.media.info import MediaInfo

WRITABLE_IMAGES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
WRITABLE_VIDEOS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}

# What players accept, which is less than what muxers accept. Matroska, the last resort, rounds times to milliseconds.
MP4_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac"})
MOV_AUDIO = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "alac", "amr_nb", "amr_wb"})


def carries(suffix: str, codec: str) -> bool:
    """Whether a container takes this audio codec without re-encoding, in a way that players understand."""
    if suffix == ".mp4":
        return codec in MP4_AUDIO
    if suffix == ".mov":
        return codec in MOV_AUDIO or codec.startswith("pcm_")
    return codec not in ("amr_nb", "amr_wb")


def video_suffix(info: MediaInfo) -> str:
    """The first of .mp4, .mov and .mkv that takes every audio stream without re-encoding."""
    for suffix in (".mp4", ".mov"):
        if all(carries(suffix, codec) for codec in info.audio_codecs):
            return suffix
    return ".mkv"


def output_path(input_path: str | PathLike, output_dir: str | PathLike, info: MediaInfo) -> Path:
    """Where the result of a file goes: the same stem, the suffix by what it is.

    Pictures keep their suffix where the format can be written and become PNG elsewhere. Videos and animations become
    MP4, or MOV or Matroska when only those take the audio as it is. When files of the same stem lie beside the input
    (`a.mov`, `a.mp4`), the one whose suffix changes carries its old suffix in its name (`a_mov.mp4`), so that no
    result overwrites another.
    """
    source = Path(input_path)
    suffix = source.suffix
    if info.kind == "image":
        suffix = suffix if suffix.lower() in WRITABLE_IMAGES else ".png"
    elif suffix.lower() != video_suffix(info):
        suffix = video_suffix(info)
    name = source.stem + suffix
    others = {entry.name for entry in source.parent.iterdir()} - {source.name} if source.parent.is_dir() else set()
    if suffix != source.suffix and any(Path(other).stem == source.stem for other in others):
        name = f"{source.stem}_{source.suffix[1:]}{suffix}"
        while name in others:
            name = f"{Path(name).stem}_{suffix}"
    return Path(output_dir) / name
