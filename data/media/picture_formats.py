"""Which format does a picture have, by its first bytes, and can it be read? Works without torch, for probing."""

import re
from importlib import import_module
from pathlib import Path

from data.media.errors import MediaError, shown
from data.media.find import RAW_SUFFIXES, starts_like_picture
from data.media.tiff_tags import STARTS as TIFF_STARTS
from data.media.tiff_tags import is_camera_raw

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
TGA_SUFFIXES, TGA_END = (".tga", ".icb", ".vda", ".vst"), b"TRUEVISION-XFILE.\0"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC, JPEG_XL = "HEIC", "JPEG XL"
# Formats that Pillow reads with a plug-in, if it is installed: (Pillow's name of the format, module, package).
PLUG_INS = {HEIC: ("HEIF", "pillow_heif", "pillow-heif"), JPEG_XL: ("JXL", "pillow_jxl", "pillow-jxl-plugin")}
NOT_READ = (
    (b"P7[\n\r ]", "PAM"),
    (b"PF[\n\r ]", "colour PFM"),
    (b"v/1\x01", "OpenEXR"),
    (rb"#\?R(ADIANCE|GBE)", "Radiance HDR"),
    (b"8BPS", "Photoshop"),
    (b"II\xbc", "JPEG XR"),
    (b"gimp xcf", "GIMP"),
    (b"qoif", "QOI"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"DDS ", "DirectDraw"),
    (b"SIMPLE  =", "FITS"),
)
RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")


def holds_picture_format(path: Path) -> bool:
    """Whether a regular file holds a picture or an animation, and not a video.

    Raises:
        MediaError: it is a picture of a known kind that cannot be read, or that needs a plug-in which is missing.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if _is_raw(path, head):
        raise MediaError(
            f"{shown(path)}: a camera RAW file, of which only a small preview could be read; develop it to TIFF or PNG "
            "with a RAW converter first"
        )
    for start, name in NOT_READ:
        if re.match(start, head):
            raise MediaError(f"{shown(path)}: {name} pictures cannot be read; convert it to PNG or TIFF first")
    if plug_in := plug_in_of(head):
        _register(path, plug_in)
        return True
    return starts_like_picture(head) or _is_tga(path, head)


def plug_in_of(head: bytes) -> str | None:
    """The name of the format, a key of `PLUG_INS`, if Pillow reads it only with a plug-in; None for other formats."""
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head[8:32]:
        return HEIC  # FFmpeg would open a phone's picture as a video and show one of its tiles
    return JPEG_XL if head.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")) else None


def formats_of(path: Path) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may have."""
    with path.open("rb") as file:
        head = file.read(512)
    if plug_in := plug_in_of(head):
        return (PLUG_INS[plug_in][0],)
    # TGA has no signature, so Pillow could take damaged files of other formats for TGA.
    return FORMATS if _is_tga(path, head) else FORMATS[:-1]


def _register(path: Path, name: str) -> None:
    _, module, package = PLUG_INS[name]
    try:
        plug_in = import_module(module)
    except ImportError as error:
        raise MediaError(
            f"{shown(path)}: {name} pictures need the package {package} (pip install {package}); or convert it to JPEG "
            "or PNG first"
        ) from error
    if name == HEIC:
        plug_in.register_heif_opener()


def _is_raw(path: Path, head: bytes) -> bool:
    if path.suffix.lower() in RAW_SUFFIXES or head.startswith(RAW_STARTS):
        return True
    canon = head[4:12] == b"ftypcrx " or (head[8:10] == b"CR" and head.startswith(TIFF_STARTS))
    return canon or (head.startswith(TIFF_STARTS) and is_camera_raw(path))


def _is_tga(path: Path, head: bytes) -> bool:
    if starts_like_picture(head) or len(head) < 18:
        return False
    if path.suffix.lower() in TGA_SUFFIXES:
        return True
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(TGA_END), 0))
        return file.read() == TGA_END
