"""Which reader fits this file?"""

from os import PathLike
from pathlib import Path

from data.media.image_reader import AnimationReader, ImageReader, is_animation, open_image
from data.media.info import MediaError, MediaReader
from data.media.video_reader import Deinterlace, VideoReader


def open_media(path: str | PathLike, *, deinterlace: Deinterlace = "auto") -> MediaReader:
    """Open a video, a picture or an animation, by what it holds and not by its name.

    Args:
        path: a file.
        deinterlace: for videos; "auto" treats frames that are marked as interlaced, "always" all, "never" none.

    Raises:
        MediaError: a sentence; the file is missing, empty, not media, damaged, or without a single frame.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"{path}: there is no such file")
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; find_media() lists the files in it")
    if deinterlace not in ("auto", "always", "never"):
        raise ValueError(f"deinterlace is 'auto', 'always' or 'never', not {deinterlace!r}")
    if not looks_like_picture(path):
        _refuse_heic(path)
        return VideoReader(path, deinterlace)
    with open_image(path) as image:
        animated = is_animation(image)
    return AnimationReader(path) if animated else ImageReader(path)


def looks_like_picture(path: Path) -> bool:
    """Whether the first bytes are those of a picture format."""
    with path.open("rb") as file:
        head = file.read(32)
    starts = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"\0\0\0\x0cjP  ")
    boxed = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
    return head.startswith(starts) or boxed or avif


def _refuse_heic(path: Path) -> None:
    """FFmpeg would open a phone's HEIC picture as a clip and show one of its tiles."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"):
        raise MediaError(f"{path.name}: HEIC pictures cannot be read; convert it to JPEG or PNG first")
