"""The largest picture that a format or an encoder takes, so that a larger one is refused before it is computed."""

from pathlib import Path

from data.media.errors import MediaError, shown

# (height, width) in pixels: of WebP's standard, of libjpeg (Pillow's constant), of x264 and of SVT-AV1.
LARGEST = {"WEBP": (16383, 16383), "JPEG": (65500, 65500), "libx264": (16384, 16384), "libsvtav1": (8704, 16384)}


def check_largest(path: Path, name: str, size: tuple[int, int], instead: str) -> None:
    """Refuse a picture that does not fit.

    Args:
        path: the result.
        name: Pillow's name of a format, or libav's of an encoder; those without an entry in `LARGEST` take any size.
        size: (height, width) in pixels.
        instead: what else the user can choose than a smaller size.
    Raises:
        MediaError: the size is too large; the message says what works.
    """
    height, width = LARGEST.get(name, size)
    if size[0] > height or size[1] > width:
        raise MediaError(
            f"{shown(path)}: cannot be written, {size[1]}x{size[0]} pixels are more than {name} takes "
            f"({width}x{height}); choose a smaller size, or {instead}"
        )
