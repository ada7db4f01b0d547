"""The layout of a picture's planes: colour model, subsampling, depth, range, matrix."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch

Model = Literal["yuv", "grey", "rgb"]
Matrix = Literal["bt709", "bt601", "bt2020", "smpte240m", "fcc", "ycgco"]
ChromaLocation = Literal["left", "center", "topleft", "top", "bottomleft", "bottom"]

# Weights of red and blue in luma (ITU-T H.273, table 4); the three weights add up to 1. YCgCo has its own matrix.
LUMA_WEIGHTS: dict[str, tuple[Fraction, Fraction]] = {
    "bt709": (Fraction(2126, 10000), Fraction(722, 10000)),
    "bt601": (Fraction(299, 1000), Fraction(114, 1000)),
    "bt2020": (Fraction(2627, 10000), Fraction(593, 10000)),
    "smpte240m": (Fraction(212, 1000), Fraction(87, 1000)),
    "fcc": (Fraction(30, 100), Fraction(11, 100)),
}

# Numbers of AVColorSpace (ITU-T H.273). 10, constant luminance, is treated as 9, as in players.
MATRIX_OF_NUMBER: dict[int, Matrix] = {
    1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 8: "ycgco", 9: "bt2020", 10: "bt2020",
}  # fmt: skip

# The position of the first chroma sample within the group of luma samples that share it: 0 is the centre of the first
# luma sample, 1 the centre of the last.
SITES: dict[ChromaLocation, tuple[Fraction, Fraction]] = {  # x, y
    "left": (Fraction(0), Fraction(1, 2)),
    "center": (Fraction(1, 2), Fraction(1, 2)),
    "topleft": (Fraction(0), Fraction(0)),
    "top": (Fraction(1, 2), Fraction(0)),
    "bottomleft": (Fraction(0), Fraction(1)),
    "bottom": (Fraction(1, 2), Fraction(1)),
}


@dataclass(frozen=True)
class YuvLayout:
    """How the planes of a picture represent its colours."""

    model: Model = "yuv"  # "yuv": planes Y, U, V; "grey": Y; "rgb": R, G, B; an alpha plane, if any, is the last one
    # (luma columns per chroma column, luma rows per chroma row), each 1, 2 or 4: 4:2:0 is (2, 2), 4:2:2 is (2, 1).
    subsampling: tuple[int, int] = (2, 2)
    depth: int = 8  # bits per sample, 8 to 16: 8 bits in u8, more in 16-bit words, whose bits torch holds as int16
    shift: int = 0  # position of a sample's lowest bit in its word; P010 has its 10 bits above 6 zeros
    # Whether samples use all codes; otherwise luma has 219 steps and chroma 224 (in 8 bits). RGB always uses all.
    full_range: bool = False
    matrix: Matrix = "bt709"  # matrix of YUV
    location: ChromaLocation = "left"  # chroma location; it has no effect without subsampling
    interlaced: bool = False  # whether the chroma rows of 4:2:0 alternate between the fields
    alpha: bool = False  # whether there is an alpha plane, of the size of luma, full range

    def __post_init__(self) -> None:
        if self.model not in ("yuv", "grey", "rgb"):
            raise ValueError(f"a layout's model is yuv, grey or rgb, not {self.model!r}")
        if not (8 <= self.depth and self.depth + self.shift <= 16) or (self.depth == 8 and self.shift):
            raise ValueError(f"{self.depth} bits, shifted by {self.shift}: a word of 16 bits holds samples of 8 to 16")
        if any(ratio not in (1, 2, 4) for ratio in self.subsampling):
            raise ValueError(f"chroma can be subsampled by 1, 2 or 4, not by {self.subsampling}")
        if self.matrix not in MATRIX_OF_NUMBER.values():
            raise ValueError(
                f"there is no matrix {self.matrix!r}; give one of {sorted(set(MATRIX_OF_NUMBER.values()))}"
            )
        if self.location not in SITES:
            raise ValueError(f"there is no chroma location {self.location!r}; give one of {sorted(SITES)}")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every plane: u8, or int16 for more than 8 bits."""
        return torch.uint8 if self.depth == 8 else torch.int16

    @property
    def colour_planes(self) -> int:
        """The number of planes without alpha."""
        return 1 if self.model == "grey" else 3

    def chroma_size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the planes U and V of a picture of `height` x `width` pixels, rounded up."""
        across, down = self.subsampling
        return -(-height // down), -(-width // across)

    def site(self) -> tuple[Fraction, Fraction]:
        """(x, y) of the first chroma sample, in luma samples from the first one."""
        (x, y), (across, down) = SITES[self.location], self.subsampling
        return x * (across - 1), y * (down - 1)

    def luma_range(self) -> tuple[int, int]:
        """(code of black, codes from black to white)."""
        if self.full_range or self.model == "rgb":
            return 0, 2**self.depth - 1
        return 16 << (self.depth - 8), 219 << (self.depth - 8)

    def chroma_range(self) -> tuple[int, int]:
        """(code of zero chroma, codes from the most negative to the most positive chroma)."""
        return 1 << (self.depth - 1), 2**self.depth - 1 if self.full_range else 224 << (self.depth - 8)


def matrix_of(number: int, height: int, width: int) -> Matrix:
    """The matrix of a frame.

    Args:
        number: its AVColorSpace. If this is unspecified or not supported, players choose by size, as is done here:
            BT.709 above 576 rows or 1024 columns, otherwise BT.601.
        height: rows of the frame.
        width: columns of the frame.
    """
    return MATRIX_OF_NUMBER.get(number, "bt709" if height > 576 or width > 1024 else "bt601")


def rgb_to_yuv(matrix: Matrix) -> list[list[Fraction]]:
    """The matrix [3][3] from R, G, B in [0, 1] to Y in [0, 1], and U and V in [-1/2, 1/2]. ITU-T H.273, 8.3."""
    if matrix == "ycgco":
        quarter, half = Fraction(1, 4), Fraction(1, 2)
        return [[quarter, half, quarter], [-quarter, half, -quarter], [half, Fraction(0), -half]]
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    return [
        [red, green, blue],
        [-red / (2 * (1 - blue)), -green / (2 * (1 - blue)), Fraction(1, 2)],
        [Fraction(1, 2), -green / (2 * (1 - red)), -blue / (2 * (1 - red))],
    ]


def yuv_to_rgb(matrix: Matrix) -> list[tuple[Fraction, Fraction]]:
    """For each of R, G and B, (weight of U, weight of V); the weight of Y is 1. It inverts `rgb_to_yuv`."""
    if matrix == "ycgco":
        one = Fraction(1)
        return [(-one, one), (one, Fraction(0)), (-one, -one)]
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    u, v = 2 * (1 - blue), 2 * (1 - red)
    return [(Fraction(0), v), (-u * blue / green, -v * red / green), (u, Fraction(0))]
