"""Converts RGB to the YUV planes that an encoder takes, on the device that holds the RGB.

    Y = black + k_r R + k_g G + k_b B        U, V likewise, from R, G, B filtered to the chroma location (cubic)

All operations are weighted sums in int32, as in `to_rgb`. Filtered colours are rounded to about 15 bits, and samples to
the bits of the layout. The result is the code nearest to the exact value, unless this is within 0.03 (of 255) of the
middle between two codes. With `dither`, a varying threshold replaces one half in rounding (`data.yuv.dither`).
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from data.yuv.columns import split
from data.yuv.dither import thresholds
from data.yuv.fixed import bits_to_drop, half, padded, shifted, tiles, weighted
from data.yuv.layout import YuvLayout, rgb_to_yuv
from data.yuv.taps import Taps, downsampling

AVERAGE_BITS = 15  # precision of filtered colours
FLOAT_BITS = 16  # precision to which float32 in [0, 1] is rounded first
SUM_BITS = 30  # bits of a sample and its fraction before rounding


@dataclass(frozen=True)
class Coefficients:
    """The integer coefficients of a layout."""

    rows: Taps  # vertical chroma filter, applied second
    columns: Taps  # horizontal chroma filter, applied first
    drop_rows: int  # bits to drop after `rows`
    drop_columns: int  # bits to drop after `columns`
    fraction: int  # bits below a code of the result
    above: int  # rows that the filter needs above a tile
    below: int  # rows that the filter needs below a tile
    left: int  # columns that the filter needs to the left of a tile, a multiple of the subsampling
    right: int  # columns that the filter needs to the right of a tile, a multiple of the subsampling
    luma: tuple[int, ...]  # weights of R, G, B in Y
    luma_constant: int  # added to Y
    chroma: tuple[tuple[int, ...], ...]  # weights of filtered R, G, B in U and V
    chroma_constant: int  # added to U and V
    alone: int  # weight of a colour or of alpha that is stored without a matrix, full range


@cache
def coefficients(layout: YuvLayout, bits: int) -> Coefficients:
    """The coefficients of a layout for RGB of 8 or 16 bits per sample."""
    (black, luma_steps), (no_chroma, chroma_steps) = layout.luma_range(), layout.chroma_range()
    (x, y), (across, down) = layout.site(), layout.subsampling
    rows, columns, white = downsampling(down, y), downsampling(across, x), 2**bits - 1
    above = rows.before
    left, right = -(-columns.before // across) * across, -(-columns.after // across) * across
    drop_columns = max(
        bits_to_drop(white * columns.gain, AVERAGE_BITS + 1), bits_to_drop(white * columns.gain * rows.gain, 30)
    )
    drop_rows = bits_to_drop(white * columns.gain * rows.gain, AVERAGE_BITS + drop_columns)
    fraction = SUM_BITS - layout.depth
    luma, *chroma = rgb_to_yuv(layout.matrix)
    luma_unit = luma_steps * 2**fraction / white
    average = white * columns.denominator * rows.denominator / 2 ** (drop_columns + drop_rows)
    chroma_unit = chroma_steps * 2**fraction / average
    return Coefficients(
        rows,
        columns,
        drop_rows,
        drop_columns,
        fraction,
        above,
        max(0, rows.after - (down - 1)),
        left,
        right,
        tuple(round(weight * luma_unit) for weight in luma),
        black << fraction,
        tuple(tuple(round(weight * chroma_unit) for weight in row) for row in chroma),
        no_chroma << fraction,
        round((2**layout.depth - 1) * 2**fraction / white),
    )


def from_rgb(rgb: Tensor, layout: YuvLayout, dither: bool = False) -> tuple[Tensor, ...]:
    """Convert RGB frames to planes.

    Args:
        rgb: [T, 3, H, W], or [T, 4, H, W] for a layout with alpha, full range: u8, 16-bit words (whose bits torch holds
            as int16), or float32 in [0, 1] (clipped, and rounded to 16 bits); any device.
        layout: the layout of the planes: progressive, without unused bits in words. For chroma, the last row or column
            of odd sides is repeated.
        dither: round with the thresholds of `data.yuv.dither`, which keeps the mean over neighbours; otherwise to the
            nearest.

    Returns:
        Planes of the layout's dtype, with the same bits on every device: for "yuv" Y [T, H, W], U and V [T, h, w]; for
        "grey" Y [T, H, W]; for "rgb" R, G and B [T, H, W]. The last plane is alpha [T, H, W], if the layout has it.

    Raises:
        ValueError: another dtype or shape, or a layout that is interlaced or has unused bits.
    """
    channels = 3 + layout.alpha
    if rgb.ndim != 4 or rgb.shape[1] != channels or rgb.dtype not in (torch.uint8, torch.int16, torch.float32):
        raise ValueError(f"RGB is [T, {channels}, H, W] of uint8, int16 or float32, not {rgb.dtype} {tuple(rgb.shape)}")
    if layout.interlaced or layout.shift:
        raise ValueError(f"planes are made of progressive pictures without unused bits, not for {layout}")
    frames, _, height, width = rgb.shape
    sizes = [(height, width)] * (layout.colour_planes + layout.alpha)
    if layout.model == "yuv":
        sizes[1:3] = [layout.chroma_size(height, width)] * 2
    planes = tuple(torch.empty(frames, *size, dtype=layout.dtype, device=rgb.device) for size in sizes)
    numbers = coefficients(layout, 8 if rgb.dtype == torch.uint8 else FLOAT_BITS)
    down = layout.subsampling[1] if layout.model == "yuv" else 1
    for part, first, last in tiles((frames, height, width), rgb.device, down) if rgb.numel() else ():
        colours = [_with_neighbours(rgb[part, channel], first, last, layout, numbers) for channel in range(channels)]
        here = [x[:, numbers.above : numbers.above + last - first, numbers.left :][..., :width] for x in colours]
        here = [x.to(torch.int32) for x in here]
        ends = _ends((first, last, width), numbers.fraction, rgb.device, dither)
        for plane, total in zip(_sized(planes, layout), _sums(here, layout, numbers), strict=True):
            plane[part, first:last] = _codes(total, ends, numbers.fraction, layout)
        if layout.model == "yuv":
            averages = [_average(x, layout, numbers) for x in colours[:3]]
            rows = first // down, -(-last // down)
            ends = _ends((*rows, planes[1].shape[-1]), numbers.fraction, rgb.device, dither)
            for plane, weights in zip(planes[1:3], numbers.chroma, strict=True):
                total = weighted(averages, list(weights), numbers.chroma_constant)
                plane[part, slice(*rows)] = _codes(total, ends, numbers.fraction, layout)
    return planes


def _sized(planes: tuple[Tensor, ...], layout: YuvLayout) -> tuple[Tensor, ...]:
    """The planes that have the size of the picture: all but chroma."""
    return (planes[0], *planes[3:]) if layout.model == "yuv" else planes


def _sums(colours: list[Tensor], layout: YuvLayout, numbers: Coefficients) -> list[Tensor]:
    """The planes that have the size of the picture, with their fraction: int32 [t, rows, W] each."""
    if layout.model == "rgb":
        return [weighted([x], [numbers.alone], 0) for x in colours]
    sums = [weighted(colours[:3], list(numbers.luma), numbers.luma_constant)]
    if layout.alpha:
        sums.append(weighted([colours[3]], [numbers.alone], 0))
    return sums


def _ends(area: tuple[int, int, int], fraction: int, device: torch.device, dither: bool) -> Tensor | int:
    """What is added before the fraction is dropped: one half, or a dithering threshold for each pixel."""
    return thresholds(*area, fraction, device) if dither else half(fraction)


def _codes(total: Tensor, ends: Tensor | int, fraction: int, layout: YuvLayout) -> Tensor:
    return shifted(total.add_(ends), fraction).clamp_(0, 2**layout.depth - 1)


def _with_neighbours(colour: Tensor, first: int, last: int, layout: YuvLayout, numbers: Coefficients) -> Tensor:
    """Rows `first` to `last - 1` of a channel [t, H, W], with the pixels around them that the chroma filter needs.

    Returns:
        u8, or int32 in 0..65535 for words and floats.
    """
    across, down = layout.subsampling if layout.model == "yuv" else (1, 1)
    full = -(-colour.shape[-1] // across) * across
    rows = first - numbers.above, -(-last // down) * down + numbers.below
    x = padded(colour, rows, (-numbers.left, full + numbers.right))
    if x.dtype == torch.uint8:
        return x
    if x.dtype == torch.int16:
        return x.to(torch.int32) & 2**FLOAT_BITS - 1
    return x.clamp(0, 1).mul_(2**FLOAT_BITS - 1).round_().to(torch.int32)


def _average(x: Tensor, layout: YuvLayout, numbers: Coefficients) -> Tensor:
    """A colour from `_with_neighbours`, filtered to the chroma locations: int32 [t, rows, w] of about 15 bits."""
    across, down = layout.subsampling
    phases = split(x, across)
    width = (x.shape[-1] - numbers.left - numbers.right) // across
    (taps,), start = numbers.columns.phases, numbers.left
    places = [divmod(start + offset, across) for offset, _ in taps]
    x = weighted(
        [phases[phase][..., skip : skip + width] for skip, phase in places],
        [weight for _, weight in taps],
        half(numbers.drop_columns),
    )
    x = shifted(x, numbers.drop_columns)
    (taps,), start = numbers.rows.phases, numbers.above
    behind = x.shape[1] - numbers.above - numbers.below
    x = weighted(
        [x[:, start + offset : start + offset + behind : down] for offset, _ in taps],
        [weight for _, weight in taps],
        half(numbers.drop_rows),
    )
    return shifted(x, numbers.drop_rows)
