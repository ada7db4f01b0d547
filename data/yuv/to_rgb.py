"""YUV planes to RGB, on the device that holds them.

    R = weight_y * (Y - black) + weight_v * V'        V' = chroma interpolated to the place of Y, cubic
    G, B alike

Everything is a sum of products of int32, rounded twice: V' to about 15 bits, R to 8. The result is the nearest level to
that of the formula in real numbers, except where that one lies within 0.03 of the middle between two levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from data.yuv.columns import merge, split
from data.yuv.fixed import bits_to_drop, half, padded, samples, shifted, tiles, weighted
from data.yuv.layout import YuvLayout, yuv_to_rgb
from data.yuv.taps import Taps, upsampling

FRACTION = 21  # bits below a level of 255: colours outside of RGB reach 700 levels, and 1024 << 21 is the end of int32
CHROMA_BITS = 15


@dataclass(frozen=True)
class Coefficients:
    """The integer coefficients of a layout."""

    rows: Taps  # taps of the chroma planes, first
    columns: Taps  # taps of the chroma planes, after `rows`
    drop_rows: int  # bits to drop after `rows`
    drop_columns: int  # bits to drop after `columns`
    no_chroma: int  # the code of no colour
    luma: int  # weight of a luma code, in levels of 255 << FRACTION
    constant: int  # added, in the same levels
    chroma: tuple[tuple[int, int], ...]  # weights of U and V in R, G and B


@cache
def coefficients(layout: YuvLayout, field: int | None) -> Coefficients:
    """The numbers of whole frames, or of the field of the even (0) or odd (1) rows."""
    (black, luma_steps), (no_chroma, chroma_steps) = layout.luma_range(), layout.chroma_range()
    (x, y), (across, down) = layout.site(), layout.subsampling
    if field is not None:
        y = (y + field) / 2  # a frame's rows are half a field's apart
    rows, columns = upsampling(down, y), upsampling(across, x)
    largest = no_chroma * rows.gain * columns.gain
    drop_rows = bits_to_drop(largest, 30)
    drop_columns = bits_to_drop(largest, CHROMA_BITS + drop_rows)
    one_level = 255 << FRACTION
    luma = round(one_level / luma_steps)
    chroma_unit = one_level * 2 ** (drop_rows + drop_columns) / (chroma_steps * rows.denominator * columns.denominator)
    chroma = tuple((round(u * chroma_unit), round(v * chroma_unit)) for u, v in yuv_to_rgb(layout.matrix))
    return Coefficients(rows, columns, drop_rows, drop_columns, no_chroma, luma, -black * luma, chroma)


def to_rgb(planes: Sequence[Tensor], layout: YuvLayout, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Planes of frames as RGB, full range.

    Args:
        planes: as `layout` says, [T, H, W] the first and [T, h, w] the chroma planes; any device; rows may be padded.
        dtype: torch.uint8, or torch.float32 for all that the samples hold (about 14 bits).

    Returns:
        [T, 3, H, W]: u8, or float32 in [0, 1]; the same bits on every device.

    Raises:
        ValueError: planes of other sizes or dtypes than the layout says.
    """
    if dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"RGB comes as uint8 or float32, not as {dtype}")
    planes = checked(planes, layout)
    out = torch.empty(*planes[0].shape[:1], 3, *planes[0].shape[1:], dtype=dtype, device=planes[0].device)
    if layout.interlaced and layout.model == "yuv" and layout.subsampling[1] > 1 and planes[1].shape[1] > 1:
        for field in (0, 1):
            _convert([p[:, field::2] for p in planes], layout, field, out[:, :, field::2])
    else:
        _convert(planes, layout, None, out)
    return out


def checked(planes: Sequence[Tensor], layout: YuvLayout) -> list[Tensor]:
    """The planes of colour, 16-bit words as int16; ValueError when they do not fit the layout."""
    if len(planes) != layout.colour_planes + layout.alpha:
        raise ValueError(f"{len(planes)} planes, but the layout has {layout.colour_planes + layout.alpha}: {layout}")
    planes = [p.view(torch.int16) if p.dtype == torch.uint16 else p for p in planes[: layout.colour_planes]]
    frames, height, width = planes[0].shape
    small = layout.chroma_size(height, width) if layout.model == "yuv" else (height, width)
    for number, plane in enumerate(planes):
        size = (frames, *(small if number else (height, width)))
        if tuple(plane.shape) != size or plane.dtype != layout.dtype:
            raise ValueError(
                f"plane {number} is {plane.dtype} {tuple(plane.shape)}, but the layout needs {layout.dtype} {size}"
            )
    return planes


def _convert(planes: list[Tensor], layout: YuvLayout, field: int | None, out: Tensor) -> None:
    """Frames, or one field of them, into `out` [T, 3, H, W]."""
    numbers = coefficients(layout, field)
    across, down = layout.subsampling if layout.model == "yuv" else (1, 1)
    finish = _levels if out.dtype == torch.uint8 else _floats
    constant = numbers.constant + (half(FRACTION) if out.dtype == torch.uint8 else 0)
    if planes[0].numel() == 0:
        return
    for frames, first, last in tiles(planes[0].shape, out.device, down):
        here = [plane[frames] for plane in planes]
        target = out[frames, :, first:last]
        if layout.model == "yuv":
            luma = [weighted([y], [numbers.luma], constant) for y in _columns(here[0], first, last, across, layout)]
            u, v = (_upsampled(plane, first, last, layout, numbers) for plane in here[1:])
            for channel, (weight_u, weight_v) in enumerate(numbers.chroma):
                colours = [_mixed(*parts, weight_u, weight_v) for parts in zip(luma, u, v, strict=True)]
                finish(colours, target[:, channel])
        else:
            for channel in range(3):
                if channel < len(here):
                    (samples,) = _columns(here[channel], first, last, 1, layout)
                    finish([weighted([samples], [numbers.luma], constant)], target[:, channel])
                else:
                    target[:, channel] = target[:, 0]


def _columns(plane: Tensor, first: int, last: int, ratio: int, layout: YuvLayout) -> list[Tensor]:
    """Rows of a plane as int32, columns p, p + ratio, ... in tensors of their own."""
    words = padded(plane, (first, last), (0, -(-plane.shape[-1] // ratio) * ratio))
    return split(words if layout.depth == 8 else samples(words, layout), ratio)


def _upsampled(plane: Tensor, first: int, last: int, layout: YuvLayout, numbers: Coefficients) -> list[Tensor]:
    """Chroma at rows first..last of luma, about CHROMA_BITS bits, for every `across`-th column: int32 [t, rows, w]."""
    down, rows, columns, width = layout.subsampling[1], numbers.rows, numbers.columns, plane.shape[-1]
    top, bottom = first // down, -(-last // down)
    x = padded(plane, (top - rows.before, bottom + rows.after), (-columns.before, width + columns.after))
    x = samples(x, layout)
    count = bottom - top
    centre = half(numbers.drop_rows) - numbers.no_chroma * rows.denominator
    tall = [
        shifted(
            weighted(
                [x[:, rows.before + offset : rows.before + offset + count] for offset, _ in phase],
                [weight for _, weight in phase],
                centre,
            ),
            numbers.drop_rows,
        )
        for phase in rows.phases
    ]
    x = (tall[0] if down == 1 else torch.stack(tall, dim=2).flatten(1, 2))[:, : last - first]
    return [
        shifted(
            weighted(
                [x[..., columns.before + offset : columns.before + offset + width] for offset, _ in phase],
                [weight for _, weight in phase],
                half(numbers.drop_columns),
            ),
            numbers.drop_columns,
        )
        for phase in columns.phases
    ]


def _mixed(luma: Tensor, u: Tensor, v: Tensor, weight_u: int, weight_v: int) -> Tensor:
    """luma + weight_u * u + weight_v * v."""
    if weight_u and weight_v:
        return torch.add(luma, u, alpha=weight_u).add_(v, alpha=weight_v)
    if not (weight_u or weight_v):
        return luma.clone()
    return torch.add(luma, u if weight_u else v, alpha=weight_u or weight_v)


def _levels(colours: list[Tensor], out: Tensor) -> None:
    """Fixed-point columns -> u8 [t, rows, W]."""
    merge([colour.bitwise_right_shift_(FRACTION).clamp_(0, 255) for colour in colours], out)


def _floats(colours: list[Tensor], out: Tensor) -> None:
    """Fixed-point columns -> float32 [t, rows, W] in [0, 1]: a conversion and a product, both rounded by IEEE 754."""
    for phase, colour in enumerate(colours):
        places = out[..., phase :: len(colours)]
        levels = colour.clamp_(0, 255 << FRACTION)[..., : places.shape[-1]].to(torch.float32)
        places.copy_(levels.mul_(1 / (255 << FRACTION)))
