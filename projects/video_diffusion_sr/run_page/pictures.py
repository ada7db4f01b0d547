"""Encodes pictures that are small enough for a page."""

import io

import numpy as np
from PIL import Image

LARGEST_SIDE = 1280  # pixels
SMALLEST_SIDE = 64
QUALITY = 80
TRIES = 5


def shrunk(frame: np.ndarray, side: int) -> Image.Image:
    """Convert uint8 [3, h, w] to a picture whose longer side is at most `side` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def encode_pair(
    before: Image.Image, after: Image.Image, most_bytes: int
) -> tuple[tuple[bytes, bytes], tuple[int, int]]:
    """Encode both as WebP of one size, together within `most_bytes` unless that needs less than `SMALLEST_SIDE` pixels.

    Returns:
        ((before, after) as bytes, their (height, width)).
    """
    side = max(after.size)
    for _ in range(TRIES):
        pair = [fitted(picture, side) for picture in (before, after)]
        encoded = webp(pair[0]), webp(pair[1])
        total = sum(map(len, encoded))
        if total <= most_bytes or side <= SMALLEST_SIDE:
            break
        side = max(int(side * min((most_bytes / total) ** 0.5, 0.9)), SMALLEST_SIDE)
    return encoded, pair[1].size[::-1]


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """Reduce a picture so that its longer side has `side` pixels."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(round(n * scale), 1) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def webp(picture: Image.Image) -> bytes:
    """Encode a picture as lossy WebP."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()
