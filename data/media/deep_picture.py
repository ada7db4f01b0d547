"""Writes PNGs and TIFFs of 16 bits per sample, of which Pillow can write only gray ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
IPTC = 33723
OF_PIXELS = (b"IHDR", b"IDAT", b"IEND")


def save_png(path: Path, words: np.ndarray, options: dict, effort: int = 3) -> None:
    """Write a 16-bit PNG.

    Args:
        path: the file to write.
        words: u16 [H, W] gray, [H, W, 3] RGB or [H, W, 4] RGBA.
        options: as for Pillow's `save`: pnginfo, exif, icc_profile, dpi.
        effort: compression level, 0 to 9.
    """
    import cv2  # here, because it is slow to load and most runs do not need it

    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[words.ndim if words.ndim == 2 else words.shape[2]]
    reordered = words if order is None else cv2.cvtColor(words, order)
    _, data = cv2.imencode(".png", reordered, [cv2.IMWRITE_PNG_COMPRESSION, effort])
    pixels, said = dict(_chunks_in(data.tobytes())), _ancillary(options)
    with path.open("wb") as file:
        file.write(SIGNATURE + _chunk(b"IHDR", pixels[b"IHDR"]))
        for name, body in said:
            file.write(_chunk(name, body))
        for name, body in _chunks_in(data.tobytes()):
            if name == b"IDAT":
                file.write(_chunk(name, body))
        file.write(_chunk(b"IEND", b""))


def save_tiff(path: Path, words: np.ndarray, options: dict) -> list[str]:
    """Write a 16-bit TIFF.

    Args:
        path: the file to write.
        words: u16 [H, W] gray, [H, W, 3] RGB or [H, W, 4] RGBA.
        options: as for Pillow's `save`: exif (only tags of text or bytes are written), icc_profile, dpi.

    Returns:
        Names of the metadata that is left out: the EXIF and GPS directories, if there are any.
    """
    import tifffile  # here for the same reason

    exif = options.get("exif")
    tags = [] if exif is None else [_tag(number, value) for number, value in exif.items()]
    tifffile.imwrite(
        path, words, photometric="minisblack" if words.ndim == 2 else "rgb", compression="zlib", metadata=None,
        extrasamples=["unassalpha"] if words.ndim == 3 and words.shape[2] == 4 else None, software=False,
        iccprofile=options.get("icc_profile"), resolution=options.get("dpi"),
        resolutionunit=2 if options.get("dpi") else None, extratags=[tag for tag in tags if tag],
    )  # fmt: skip
    return ["EXIF and GPS"] if exif is not None and exif._ifds else []


def png_info(chunk: bytes | None, info: PngInfo | None = None) -> PngInfo:
    """Add a cICP chunk to the chunks that Pillow writes into a PNG; without `chunk`, they are returned unchanged."""
    info = info or PngInfo()
    if chunk:
        info.add(b"cICP", chunk)
    return info


def _tag(number: int, value: object) -> tuple | None:
    """A tag of text or bytes in tifffile's form; None for other values."""
    if isinstance(value, str):
        return number, 2, 0, value.encode(), True
    return (number, 7 if number == IPTC else 1, len(value), value, True) if isinstance(value, bytes) else None


def _ancillary(options: dict) -> list[tuple[bytes, bytes]]:
    """The metadata chunks, (name, body) each, that Pillow writes for these options."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG", **options)
    return [(name, body) for name, body in _chunks_in(file.getvalue()) if name not in OF_PIXELS]


def _chunks_in(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, body) of each chunk of a PNG."""
    found, place = [], len(SIGNATURE)
    while place < len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        found.append((name, data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
