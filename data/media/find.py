"""Which files of a folder are worth opening?"""

from os import PathLike
from pathlib import Path

from data.media.info import MediaError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mov .m4v .mkv .webm .avi .wmv .asf .flv .ts .m2ts .mts .mpg .mpeg .vob .ogv .3gp .3g2 .mxf .dv .y4m".split()
)
IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .webp .tif .tiff .bmp .gif .apng .avif .heic .heif .jp2 .ppm .pgm .pnm".split()
)


def is_probably_media(path: str | PathLike) -> bool:
    """Whether the name (the first bytes, without a suffix) is that of a video or a picture; opening tells for sure."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix:
        return suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES
    with path.open("rb") as file:
        head = file.read(16)
    known = (
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"II*\0",
        b"MM\0*",
        b"RIFF",
        b"\x1aE\xdf\xa3",
        b"FLV\x01",
        b"\0\0\x01\xba",
        b"OggS",
    )
    return head.startswith(known) or head[4:8] == b"ftyp"


def find_media(path: str | PathLike) -> tuple[list[Path], list[tuple[Path, str]]]:
    """(media files by name, (other entry, why it is skipped)) of a folder, not of the folders inside it.

    A file given by itself is taken as media whatever its name.

    Raises:
        MediaError: the path does not exist, or nothing in the folder is media.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [path], []
    media, skipped = [], []
    for entry in sorted(path.iterdir()):
        reason = _why_skipped(entry)
        if reason:
            skipped.append((entry, reason))
        else:
            media.append(entry)
    if not media:
        held = "it is empty" if not skipped else f"{skipped[0][0].name}: {skipped[0][1]}"
        more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise MediaError(f"{path}: no video or picture in this folder ({held}{more})")
    return media, skipped


def _why_skipped(entry: Path) -> str | None:
    if entry.name.startswith("."):
        return "a hidden file"
    if entry.is_dir():
        return "a folder; folders inside a folder are not searched"
    if not entry.is_file():
        return "not a regular file"
    try:
        return None if is_probably_media(entry) else "not a video or a picture"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
