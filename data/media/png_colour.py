"""Converts the pixels of a PNG with gAMA and cHRM chunks, which state a gamma and primaries, to sRGB.

cICP, iCCP and sRGB chunks have precedence (PNG specification, 4.3). As in libpng, a gamma within 5 % of 1/2.2 is taken
as the curve of sRGB, which most programs mean by it.
"""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

SRGB_GAMMA, NEAR = 1 / 2.2, 0.05
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue: x, y
SAME_PLACE = 0.01
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class PngColour:
    """Converts pixel values of a given gamma and given primaries to sRGB.

    Args:
        gamma: stored value = light ** gamma.
        primaries: (x, y) of white, red, green and blue; None: those of sRGB.
    """

    def __init__(self, gamma: float, primaries: tuple[float, ...] | None = None) -> None:
        self.exponent = 1 / gamma
        self.matrix = None
        if primaries is not None:
            to_srgb = np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ _adapted(primaries[:2]) @ _to_xyz(primaries)
            self.matrix = to_srgb.astype(np.float32)

    def converted(self, values: np.ndarray, most: int) -> np.ndarray:
        """Convert pixels to sRGB.

        Args:
            values: integers in 0..most, [H, W] gray or [H, W, 3] RGB. Gray is not affected by the primaries.
            most: 255 or 65535.

        Returns:
            The shape of `values`: u8 if `most` is 255, otherwise u16.
        """
        light = np.linspace(0, 1, most + 1, dtype=np.float64) ** self.exponent
        if self.matrix is None or values.ndim == 2:
            return _encoded(light, most)[values]
        mixed = light.astype(np.float32)[values] @ self.matrix.T
        return _encoded(mixed, most)


def png_colour(image: Image.Image, path: Path | None) -> PngColour | None:
    """The conversion for a PNG; None if its values are sRGB, another chunk has precedence, or it is no PNG.

    Args:
        image: the open image.
        path: its file, which is searched for a cICP chunk; None: it is not searched.
    """
    gamma = image.info.get("gamma")
    if image.format != "PNG" or not gamma or {"icc_profile", "srgb"} & image.info.keys():
        return None
    if path is not None and _has_chunk(path, b"cICP"):
        return None
    primaries = image.info.get("chromaticity")
    if primaries is not None and (len(primaries) != 8 or not all(y > 0 for y in primaries[1::2])):
        primaries = None
    if primaries is not None and max(abs(a - b) for a, b in zip(primaries, SRGB_PRIMARIES, strict=True)) < SAME_PLACE:
        primaries = None
    if abs(gamma / SRGB_GAMMA - 1) < NEAR and primaries is None:
        return None
    try:
        return PngColour(gamma, primaries)
    except np.linalg.LinAlgError:  # the primaries lie on one line
        return PngColour(gamma)


def _encoded(light: np.ndarray, most: int) -> np.ndarray:
    """Linear light in [0, 1] as codes of sRGB (IEC 61966-2-1) in 0..most, rounded."""
    light = light.clip(0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (most * values).round().astype(np.uint8 if most == 255 else np.uint16)


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    """The matrix [3, 3] from linear RGB of these primaries to XYZ."""
    white, *corners = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(*[iter(primaries)] * 2, strict=True))
    columns = np.stack(corners, axis=1)
    return columns * np.linalg.solve(columns, white)


def _adapted(white: tuple[float, ...]) -> np.ndarray:
    """The matrix [3, 3] of the Bradford adaptation of XYZ from one white point, (x, y), to that of sRGB."""
    seen, wanted = (BRADFORD @ np.array([x / y, 1, (1 - x - y) / y]) for x, y in (tuple(white), SRGB_PRIMARIES[:2]))
    return np.linalg.inv(BRADFORD) @ np.diag(wanted / seen) @ BRADFORD


def _has_chunk(path: Path, wanted: bytes) -> bool:
    """Whether a PNG has a chunk of this type before its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", header)
            if name in (wanted, b"IDAT"):
                return name == wanted
            file.seek(size + 4, 1)
    return False
