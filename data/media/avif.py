"""Reads AVIF pictures of more than 8 bits per sample, and the colour of all. Works without torch, for probing.

Pillow decodes AVIF to 8 bits. OpenCV has the same decoder (libavif) and gives all bits, as stored: not turned, and gray
without its range expanded. Neither gives the numbers that name the colours; FFmpeg does, from the container (nclx) or
the AV1 sequence header. FFmpeg does not decode the picture, because it gives the tiles of a grid, and the transparency,
as separate streams.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange
from PIL import Image

from data.media.colour import SDR, Colour, colour_of_numbers
from data.media.errors import reason, shown
from data.media.heif import widened

SILENT = 0  # a log level of OpenCV


@dataclass(frozen=True)
class AvifFacts:
    """What the headers of an AVIF say, and Pillow does not."""

    bits: int = 8  # bits per sample: 8, 10 or 12
    gray: bool = False  # whether it has luma alone
    limited: bool = False  # whether black and white are 16 and 235 times 2^(bits - 8), and not the lowest and highest
    colour: Colour = SDR  # `SDR` if it has an ICC profile, which is used instead
    problem: str | None = None  # why the headers could not be read; None if they were


def avif_facts(image: Image.Image, path: Path) -> AvifFacts:
    """The facts of an open AVIF; the defaults for pictures of other formats.

    Args:
        image: the open picture; its pixels need not be decoded.
        path: its file.
    """
    if image.format != "AVIF":
        return AvifFacts()
    try:
        with av.open(str(path)) as container:
            codecs = [stream.codec_context for stream in container.streams.video]
            coloured = [codec for codec in codecs if not _is_gray(codec)]
            first = (coloured or codecs)[0]  # another one can be the transparency, which is gray
            colour = colour_of_numbers(int(first.color_primaries), int(first.color_trc))
            return AvifFacts(
                bits=av.VideoFormat(first.pix_fmt or "").components[0].bits,
                gray=not coloured,
                limited=first.color_range == ColorRange.MPEG,
                colour=SDR if image.info.get("icc_profile") else colour,
            )
    except (av.error.FFmpegError, ValueError, IndexError) as error:  # Pillow can read it, if not exactly
        return AvifFacts(problem=f"its depth and colours could not be read ({reason(error)}); it is read as 8-bit sRGB")


def reads_all_bits(image: Image.Image, facts: AvifFacts) -> bool:
    """Whether an open AVIF has more than 8 bits, and `avif_words` reads them."""
    return facts.bits > 8 and _obstacle(image, facts) is None


def avif_words(image: Image.Image, path: Path, facts: AvifFacts) -> tuple[np.ndarray | None, Sequence[str]]:
    """Decode an AVIF of more than 8 bits.

    Returns:
        (u16 [H, W] (gray) or [H, W, 3 or 4], as stored, white is 65535; sentences about what is not read). None instead
        of pixels for pictures of 8 bits and other formats, and for kinds that OpenCV does not read.
    """
    if facts.problem:
        return None, [f"{shown(path)}: {facts.problem}"]
    if facts.bits == 8:
        return None, []
    obstacle = _obstacle(image, facts)
    codes = None if obstacle else _codes(path)
    if codes is None or codes.dtype != np.uint16 or codes.shape[1::-1] != image.size:
        why = f" ({obstacle or 'OpenCV does not decode it: it may be damaged'}); a 16-bit PNG of it would keep them"
        return None, [f"{shown(path)}: has {facts.bits} bits a sample, of which 8 are read{why}"]
    if codes.ndim == 3:
        return widened(codes[..., [2, 1, 0, 3][: codes.shape[2]]], facts.bits), []
    black, white = (16 << facts.bits - 8, 235 << facts.bits - 8) if facts.limited else (0, 2**facts.bits - 1)
    return widened(codes.clip(black, white) - np.uint16(black), facts.bits, white - black), []


def _codes(path: Path) -> np.ndarray | None:
    """The samples as OpenCV gives them: u16 [H, W] or [H, W, 3 or 4] in the order BGRA; None if it does not decode."""
    import cv2  # here, because it is slow to load and most runs do not need it

    log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4 and 5
    level = log.getLogLevel()
    log.setLogLevel(SILENT)  # it would print why it fails, which the caller says in a sentence
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        log.setLogLevel(level)


def _obstacle(image: Image.Image, facts: AvifFacts) -> str | None:
    """Why OpenCV cannot read a picture; None if it can."""
    if facts.gray and image.mode != "L":
        return "OpenCV reads no gray AVIF with transparency"
    import cv2

    if not any("AVIF:" in line and "NO" not in line for line in cv2.getBuildInformation().splitlines()):
        return "this OpenCV is built without AVIF; opencv-python-headless 4.12 has it"
    return None


def _is_gray(codec: av.VideoCodecContext) -> bool:
    return (codec.pix_fmt or "").startswith("gray")
