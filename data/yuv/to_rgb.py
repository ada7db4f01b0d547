"""Converts YUV planes to RGB, on the device that holds them.

    R = weight_y * (Y - black) + weight_v * V'        V' = chroma interpolated to the position of Y (cubic)
    G, B likewise

All operations are weighted sums in int32. V' is rounded to about 15 bits, and R to 8. The result is the level nearest
to the exact value, unless this is within 0.03 of the middle between two levels.
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

FRACTION = 21  # bits below a level of 255: colours out of gamut reach 700 levels, and int32 ends at 1024 << 21
CHROMA_BITS = 15  # precision of interpolated chroma


@dataclass(frozen=True)
class Coefficients:
    """The integer coefficients of a layout."""

    rows: Taps  # vertical chroma filter, applied first
    columns: Taps  # horizontal chroma filter, applied second
    drop_rows: int  # bits to drop after `rows`
    drop_columns: int  # bits to drop after `columns`
    no_chroma: int  # code of zero chroma
    luma: int  # weight of a luma code in R, G and B, whose white is 255 << FRACTION
    constant: int  # added to R, G and B
    chroma: tuple[tuple[int, int], ...]  # for each of R, G and B, weights of interpolated U and V


@cache
def coefficients(layout: YuvLayout, field: int | None) -> Coefficients:
    """The coefficients for whole frames (None), or for the field of even (0) or odd (1) rows."""
    (black, luma_steps), (no_chroma, chroma_steps) = layout.luma_range(), layout.chroma_range()
    (x, y), (across, down) = layout.site(), layout.subsampling
    if field is not None:
        y = (y + field) / 2  # rows of a frame are half as far apart as rows of a field
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
    """Convert planes of frames to RGB, full range.

    Args:
        planes: the planes of `layout`: chroma [T, h, w], the others [T, H, W]; any device; rows may be padded. An alpha
            plane is ignored.
        layout: the layout of the planes.
        dtype: torch.uint8, or torch.float32, which keeps about 14 bits of precision.

    Returns:
        [T, 3, H, W]: u8, or float32 in [0, 1]; the same bits on every device.

    Raises:
        ValueError: another dtype is asked for, or the planes do not have the number, sizes or dtype of the layout.
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
    """The planes without alpha, uint16 viewed as int16. Raises ValueError if they do not fit the layout."""
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
    """Convert frames, or one field of them, and write the result to `out` [T, 3, H, W]."""
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
    """Rows `first` to `last - 1` of a plane, split by columns as in `split`: int32 [t, rows, w] each."""
    words = padded(plane, (first, last), (0, -(-plane.shape[-1] // ratio) * ratio))
    return split(words if layout.depth == 8 else samples(words, layout), ratio)


def _upsampled(plane: Tensor, first: int, last: int, layout: YuvLayout, numbers: Coefficients) -> list[Tensor]:
    """Chroma, minus the code of zero, interpolated to rows `first` to `last - 1` of luma and to all of its columns.

    Returns:
        int32 [t, rows, w] of about `CHROMA_BITS` bits, for each phase of the luma columns.
    """
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
    """luma + weight_u * u + weight_v * v, as a new tensor; products with weight 0 are not computed."""
    if weight_u and weight_v:
        return torch.add(luma, u, alpha=weight_u).add_(v, alpha=weight_v)
    if not (weight_u or weight_v):
        return luma.clone()
    return torch.add(luma, u if weight_u else v, alpha=weight_u or weight_v)


def _levels(colours: list[Tensor], out: Tensor) -> None:
    """Write fixed-point columns, which are overwritten, to `out`, u8 [t, rows, W], clipped."""
    merge([colour.bitwise_right_shift_(FRACTION).clamp_(0, 255) for colour in colours], out)


def _floats(colours: list[Tensor], out: Tensor) -> None:
    """Write fixed-point columns, which are overwritten, to `out`, float32 [t, rows, W], clipped to [0, 1].

    The conversion and the product are rounded as in IEEE 754, so every device gives the same bits.
    """
    for phase, colour in enumerate(colours):
        places = out[..., phase :: len(colours)]
        levels = colour.clamp_(0, 255 << FRACTION)[..., : places.shape[-1]].to(torch.float32)
        places.copy_(levels.mul_(1 / (255 << FRACTION)))
