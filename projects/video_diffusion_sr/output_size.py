"""Computes the size of a result from the size of its file, in one of the ways that the user can choose."""

import argparse
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path

from common.logger import get_logger
from data.image.transforms.na_resize import NaResize

logger = get_logger(__name__)

SMALLEST = 16  # pixels a side


@dataclass(frozen=True)
class OutputSize:
    """A specification of the result's size. Exactly one field is given; all but `exact` keep the aspect ratio.

    area: (height, width) in pixels, whose product is the area of the result.
    scale: factor of the file's size.
    short_side: length of the shorter side in pixels.
    exact: (height, width) of the result in pixels.
    """

    area: tuple[int, int] | None = None
    scale: float | None = None
    short_side: int | None = None
    exact: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"one size is needed, got {' and '.join(given) or 'none'}; give one of {', '.join(vars(self))}"
            )
        if self.scale is not None and not (isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"a scale of {self.scale} is not possible; it must be a positive number, such as 2")
        if self.short_side is not None and self.short_side < SMALLEST:
            raise ValueError(f"a short side of {self.short_side} is too small: it must be at least {SMALLEST} pixels")
        for size in (self.area, self.exact):
            if size is not None and min(size) < SMALLEST:
                raise ValueError(
                    f"a size of {size[1]}x{size[0]} is too small: it must be at least {SMALLEST}x{SMALLEST} pixels"
                )

    def of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for a file of this size."""
        if self.exact is not None:
            return self.exact
        if self.scale is not None:
            return max(round(height * self.scale), 1), max(round(width * self.scale), 1)
        if self.short_side is not None:
            return NaResize(self.short_side, mode="side").output_size(height, width)
        assert self.area is not None, "one of the four is given"
        return NaResize(sqrt(self.area[0] * self.area[1]), mode="area").output_size(height, width)


def size_from_flags(args: argparse.Namespace) -> OutputSize | None:
    """The size of `--scale`, `--short_side` or `--size`; None if none of them is given, so that --res_h, --res_w apply.

    Raises:
        ValueError: the size is not possible, or is exact and --fit crop would change it.
    """
    named = {"scale": args.scale, "short_side": args.short_side, "exact": args.size}
    if all(value is None for value in named.values()):
        return None
    if args.size is not None and args.fit == "crop":
        raise ValueError("--size is exact, and --fit crop would cut it: leave one of them out")
    return OutputSize(**named)


def say_size(source: Path, given: tuple[int, int], size: tuple[int, int]) -> None:
    """Log a line if a result of (height, width) has fewer pixels than its input, or another aspect ratio."""
    (h, w), (height, width) = given, size
    if height * width < h * w:
        logger.info(
            "%s: the result, %dx%d, is smaller than the input, %dx%d; --scale 1 keeps the size",
            source.name,
            width,
            height,
            w,
            h,
        )
    exact = h * width / w  # the height that keeps the aspect ratio; both sides may have been rounded
    if abs(height - exact) > 1 + max(width / w, height / h):
        logger.info(
            "%s: %dx%d has another aspect ratio than the input, %dx%d: it is stretched",
            source.name,
            width,
            height,
            w,
            h,
        )
