"""Compares the result with the input: as a clip with both side by side, and as a contact sheet of stills."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.atomic import atomic_write
from data.image.transforms.na_resize import bicubic_8_bit
from data.media.codecs import OutputOptions
from data.media.colour import Colour
from data.media.info import MediaInfo
from data.media.writer import open_writer

DIVIDER_PX = 2
MARGIN_PX = 8
SHEET_BACKGROUND, TEXT_COLOUR = (24, 24, 24), (235, 235, 235)


def side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """Put the input on the left and the result on the right, with a thin white line between them.

    Args:
        before: u8 [T, 3, h, w]; it is resized to the size of `after` by plain bicubic interpolation, as in players.
        after: u8 [T, 3, H, W].

    Returns:
        u8 [T, 3, H, 2W], on the CPU. Results less than 16 pixels wide get no line.

    Raises:
        ValueError: the numbers of frames differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} input frames beside {len(after)} finished ones; give the same moments of both")
    pair = torch.cat([enlarged(before.cpu(), (after.shape[-2], after.shape[-1])), after.cpu()], dim=-1)  # t 3 H 2W
    width = after.shape[-1]
    if width >= 8 * DIVIDER_PX:
        pair[..., width - DIVIDER_PX // 2 : width + DIVIDER_PX // 2] = 255
    return pair


def enlarged(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize u8 [T, 3, h, w] to u8 [T, 3, H, W] by bicubic interpolation; `size` is (H, W)."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    return bicubic_8_bit(frames, size)


class SideBySide:
    """Writes a comparison clip or picture; a context manager like the writer that it wraps.

    Args:
        path: the file of the comparison, see `open_writer`.
        info: the input. Its sound is copied, its transparency is not. Nothing is logged, since the writer of the result
            logs the same.
        size: (height, width) of the restored frames in pixels; the comparison is twice as wide.
        frame_rate: frames per second, see `OutputOptions`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        info: MediaInfo,
        size: tuple[int, int],
        *,
        frame_rate: Fraction | None = None,
    ) -> None:
        wide = (size[0], 2 * size[1])
        # For viewing: 8 bits, and HDR as the SDR that the networks take.
        colour = Colour(info.colour.primaries) if info.colour.is_hdr else info.colour
        plain = replace(info, alpha=None, transparent=False, depth=8, colour=colour)
        self.writer = open_writer(
            path, plain, wide, options=OutputOptions(frame_rate=frame_rate, metadata=False), quiet=True
        )
        self.path = self.writer.path

    def write(self, before: Tensor, after: Tensor, times: Sequence[Fraction]) -> None:
        """Append frames: u8 [T, 3, h, w] of the input, u8 [T, 3, H, W] of the result, and their T times in seconds."""
        self.writer.write(side_by_side(before, after), times)

    def __enter__(self) -> Self:
        self.writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.__exit__(kind, error, trace)


def contact_sheet(
    frames: Sequence[tuple[str, Tensor, Tensor]], path: str | PathLike[str] | None = None, cell_width: int = 480
) -> Image.Image:
    """Make a contact sheet with one row for each frame: input on the left, result on the right, a label above.

    Args:
        frames: for each row (label, input u8 [3, h, w], result u8 [3, H, W]).
        path: if given, the sheet is also written here as PNG, atomically.
        cell_width: the largest width of a picture in pixels; narrower results keep their size.

    Raises:
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("a contact sheet needs at least one frame")
    rows = [_row(label, before, after, cell_width) for label, before, after in frames]
    width = max(row.width for row in rows) + 2 * MARGIN_PX
    sheet = Image.new("RGB", (width, sum(row.height + MARGIN_PX for row in rows) + MARGIN_PX), SHEET_BACKGROUND)
    top = MARGIN_PX
    for row in rows:
        sheet.paste(row, (MARGIN_PX, top))
        top += row.height + MARGIN_PX
    if path is not None:
        with atomic_write(Path(path)) as temporary:
            sheet.save(temporary, format="PNG")
    return sheet


def _row(label: str, before: Tensor, after: Tensor, cell_width: int) -> Image.Image:
    font = ImageFont.load_default(size=14)
    height, width = after.shape[-2:]
    if width > cell_width:
        size = (max(round(height * cell_width / width), 1), cell_width)
        after = enlarged(after[None].cpu(), size)[0]
    pair = side_by_side(before[None], after[None])[0]  # 3 H 2W
    picture = Image.fromarray(pair.permute(1, 2, 0).contiguous().numpy())
    line = 20
    row = Image.new("RGB", (picture.width, picture.height + line), SHEET_BACKGROUND)
    row.paste(picture, (0, line))
    draw = ImageDraw.Draw(row)
    draw.text((2, 1), f"input  {label}", fill=TEXT_COLOUR, font=font)
    draw.text((picture.width // 2 + 2, 1), "restored", fill=TEXT_COLOUR, font=font)
    return row
