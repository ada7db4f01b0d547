"""Planes of libav's frames as tensors, without a copy, and frames made of planes."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import torch
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange
from torch import Tensor

from data.pixel_formats import EXACT
from data.yuv.layout import SITES, ChromaLocation, YuvLayout, matrix_of
from data.yuv.storage import SUBSAMPLING, Storage, stand_in, storage_of

NO_MATRIX, BT709 = 0, 1  # the same numbers in AVColorSpace and swscale
NUMBER_OF_MATRIX = {"bt709": BT709, "fcc": 4, "bt601": 6, "smpte240m": 7, "ycgco": 8, "bt2020": 9}
PROBE_PX, PROBE_STEP, NO_COLOUR = 16, 24, 128


def planes_of(frame: av.VideoFrame, location: ChromaLocation | None = None) -> tuple[tuple[Tensor, ...], YuvLayout]:
    """A decoded frame's samples and what they mean.

    Args:
        frame: of any pixel format. One that `storage_of` does not read is repacked by libav first, which is a copy.
        location: of chroma, where it is known; None asks `chroma_location`, which takes about half a millisecond.

    Returns:
        (planes, layout), see `YuvLayout`. Planes are views of the frame's memory, [1, H, W] and [1, h, w], u8 or int16,
        with padded rows; they keep the frame alive. Decoders read that memory too: never write to it.
    """
    original, frame = frame, _readable(frame)
    storage = _storage(frame.format.name)
    layout = YuvLayout(
        model=storage.model,
        subsampling=storage.subsampling,
        depth=storage.depth,
        shift=storage.shift,
        full_range=storage.full_range or storage.model == "grey" or original.color_range == ColorRange.JPEG,
        matrix=matrix_of(original.colorspace, frame.height, frame.width),
        location="left",
        interlaced=original.interlaced_frame and storage.subsampling[1] > 1,
        alpha=storage.alpha,
    )
    if storage.subsampling != (1, 1):
        layout = replace(layout, location=location or chroma_location(original))
    small = layout.chroma_size(frame.height, frame.width)
    planes = []
    for number, (plane, first, step) in enumerate(storage.places):
        height, width = small if storage.model == "yuv" and number in (1, 2) else (frame.height, frame.width)
        planes.append(_view(frame.planes[plane], layout.dtype)[None, :height, first : first + step * width : step])
    return tuple(planes), layout


def scaled_to(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The frame, or one scaled by libswscale where it has another size: some streams change their size midway."""
    if (frame.width, frame.height) == (width, height):
        return frame
    name = frame.format.name
    scaled = _reformatted(frame, width=width, height=height, format=name if storage_of(name) else stand_in(name))
    scaled.colorspace = NUMBER_OF_MATRIX[matrix_of(frame.colorspace, frame.height, frame.width)]  # of its own size
    return scaled


def _readable(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, or a repacked one of a format that `storage_of` reads."""
    name = frame.format.name
    return frame if storage_of(name) else _reformatted(frame, format=stand_in(name))


def _storage(name: str) -> Storage:
    """The storage of a format that `storage_of` reads."""
    storage = storage_of(name)
    assert storage is not None, f"{name} is repacked first"
    return storage


def _reformatted(frame: av.VideoFrame, **asked: Any) -> av.VideoFrame:
    """`reformat` to YUV of the same matrix, or within RGB; libswscale would refuse matrices that it does not have."""
    return frame.reformat(src_colorspace=BT709, dst_colorspace=BT709, interpolation=EXACT, **asked)


def _view(plane: VideoPlane, dtype: torch.dtype) -> Tensor:
    """All of a plane's memory: [rows, samples], from the picture's upper row to its lowest."""
    rows = torch.frombuffer(plane, dtype=dtype).view(plane.height, -1)
    return rows.flip(0) if plane.line_size < 0 else rows


def frame_from(planes: Sequence[Tensor], layout: YuvLayout, stored: str | None = None) -> av.VideoFrame:
    """A frame for an encoder, with the layout's matrix and range as tags.

    Args:
        planes: [H, W] and [h, w] on the CPU, as `from_rgb` gives them for one frame.
        layout: progressive, no word with unused bits.
        stored: another pixel format that has the same samples in other places (p010le, bgr0); None: planes.
    """
    height, width = planes[0].shape
    name = format_of(layout)
    frame = av.VideoFrame(width, height, name)
    for plane, (number, _, _) in zip(planes, _storage(name).places, strict=True):
        _view(frame.planes[number], layout.dtype)[:, : plane.shape[-1]].copy_(plane)
    if stored not in (None, name):
        frame = _reformatted(frame, format=stored)
    if layout.model == "yuv":
        frame.colorspace = NUMBER_OF_MATRIX[layout.matrix]
    elif layout.model == "rgb":
        frame.colorspace = NO_MATRIX
    full = layout.full_range or layout.model == "rgb"
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    return frame


def format_of(layout: YuvLayout) -> str:
    """libav's name of the planar format of a layout, for encoders; its range is a tag (yuv420p, not yuvj420p)."""
    sampling = {ratios: digits for digits, ratios in SUBSAMPLING.items()}.get(layout.subsampling)
    if layout.shift or layout.interlaced or sampling is None or (layout.alpha and layout.model == "grey"):
        raise ValueError(f"frames are made of planar, progressive pictures, grey ones without alpha, not of {layout}")
    alpha = "a" if layout.alpha else ""
    name = {"grey": "gray", "rgb": f"gbr{alpha}p", "yuv": f"yuv{alpha}{sampling}p"}[layout.model]
    return name if layout.depth == 8 else f"{name}{layout.depth}le"


def stacked(pictures: Sequence[Sequence[Tensor]], pin_memory: bool = False) -> tuple[Tensor, ...]:
    """Planes of single frames as planes of a clip: one copy, into one piece of memory for each plane.

    Args:
        pictures: planes [1, h, w] of frames of one layout and size.
        pin_memory: page-locked, so that a copy to a CUDA device runs beside the program.

    Returns:
        [T, h, w] for each plane.
    """
    together = []
    for column in zip(*pictures, strict=True):
        shape = (len(column), *column[0].shape[1:])
        together.append(torch.empty(shape, dtype=column[0].dtype, pin_memory=pin_memory))
        torch.cat(list(column), out=together[-1])
    return tuple(together)


def chroma_location(frame: av.VideoFrame) -> ChromaLocation:
    """Where a frame's chroma samples lie. "center" where the file does not say, as libswscale has it.

    PyAV does not show AVFrame.chroma_location, but libswscale uses it. So a small frame
    with the same properties and a ramp of colour is converted; the position of the ramp's middle gives the location.
    """
    try:
        # Two steps: a frame that already has the size and format would be returned unconverted.
        small = _reformatted(frame, width=PROBE_PX, height=PROBE_PX, format="yuv444p")
        small = _reformatted(small, format="yuv420p")
        small.color_range = ColorRange.MPEG
        luma, u, v = (_view(plane, torch.uint8) for plane in small.planes)
        luma.fill_(NO_COLOUR)
        u.fill_(NO_COLOUR)
        ramp = (NO_COLOUR + PROBE_STEP * torch.arange(-PROBE_PX // 4, PROBE_PX // 4)).to(torch.uint8)
        found = []
        for ramp_along in (ramp[None, :], ramp[:, None]):
            v[:, : len(ramp)] = ramp_along
            red = _reformatted(small, format="rgb24").to_ndarray()
            found.append(int(red[PROBE_PX // 2, PROBE_PX // 2, 0]))
    except av.FFmpegError:
        return "center"
    grey = 255 * (NO_COLOUR - 16) / 219
    red_per_sample = 255 / 224 * 1.5748 * PROBE_STEP / 2
    x, y = (Fraction(round(2 * (grey - red) / red_per_sample)) for red in found)  # half luma samples from the first one
    return next((name for name, site in SITES.items() if (2 * site[0], 2 * site[1]) == (x, y)), "center")
