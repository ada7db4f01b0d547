"""The rotation of a clip: its display matrix, which phones write, as a transposition and two mirrors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from data.media.colour import buffer_of

if TYPE_CHECKING:
    from torch import Tensor

QUARTER_TURNS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))  # counter-clockwise


@dataclass(frozen=True)
class Orientation:
    """How displayed pixels are made from stored ones: first transpose, then mirror along the displayed axes."""

    transpose: bool  # swap rows and columns
    mirror_x: bool  # exchange left and right, after the transposition
    mirror_y: bool  # exchange top and bottom, after the transposition

    def apply(self, pixels: Tensor) -> Tensor:
        """Orient pixels of any dtype: [..., H, W] as stored -> [..., h, w] as displayed, contiguous."""
        if self.transpose:
            pixels = pixels.transpose(-2, -1)
        mirrored = [axis for axis, mirror in ((-1, self.mirror_x), (-2, self.mirror_y)) if mirror]
        return (pixels.flip(mirrored) if mirrored else pixels).contiguous()


UPRIGHT = Orientation(False, False, False)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation of a frame by its display matrix, rounded to a quarter turn, with or without a mirror.

    The matrix maps a stored point (x, y) to a displayed one: x' = a x + c y, y' = b x + d y.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV raises for side data of a kind that it does not support
        matrix = None
    if matrix is None:
        a, b, c, d = QUARTER_TURNS[round(frame.rotation / 90) % 4]
    else:
        a, b, _, c, d = struct.unpack("=5i", buffer_of(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
