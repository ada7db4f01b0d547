"""Gives the planes of libav's frames as tensors, without a copy, and makes frames of planes."""

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

NO_MATRIX, BT709 = 0, 1  # AVColorSpace and libswscale have the same numbers
NUMBER_OF_MATRIX = {"bt709": BT709, "fcc": 4, "bt601": 6, "smpte240m": 7, "ycgco": 8, "bt2020": 9}
PROBE_PX, PROBE_STEP, NO_COLOUR = 16, 24, 128


def planes_of(frame: av.VideoFrame, location: ChromaLocation | None = None) -> tuple[tuple[Tensor, ...], YuvLayout]:
    """The samples of a decoded frame, and their layout.

    Args:
        frame: a frame of any pixel format. If `storage_of` does not read the format, libav repacks the frame first,
            which makes a copy.
        location: the chroma location, if it is known; None: `chroma_location` finds it in about half a millisecond.

    Returns:
        (planes, layout), see `YuvLayout`. Planes are views of the frame's memory, [1, H, W] and [1, h, w], u8 or int16,
        with padded rows; they keep the frame alive. Never write to them, because the decoder reads this memory too.
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
    """The frame, scaled by libswscale if it has another size: some streams change their size midway."""
    if (frame.width, frame.height) == (width, height):
        return frame
    name = frame.format.name
    scaled = _reformatted(frame, width=width, height=height, format=name if storage_of(name) else stand_in(name))
    scaled.colorspace = NUMBER_OF_MATRIX[matrix_of(frame.colorspace, frame.height, frame.width)]  # by the old size
    return scaled


def _readable(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, repacked by libav if `storage_of` does not read its format."""
    name = frame.format.name
    return frame if storage_of(name) else _reformatted(frame, format=stand_in(name))


def _storage(name: str) -> Storage:
    """`storage_of` for a format that it is known to read."""
    storage = storage_of(name)
    assert storage is not None, f"{name} is repacked first"
    return storage


def _reformatted(frame: av.VideoFrame, **asked: Any) -> av.VideoFrame:
    """`reformat` without a change of matrix.

    Source and target are both declared as BT.709, since libswscale refuses matrices that it does not know.
    """
    return frame.reformat(src_colorspace=BT709, dst_colorspace=BT709, interpolation=EXACT, **asked)


def _view(plane: VideoPlane, dtype: torch.dtype) -> Tensor:
    """All of a plane's memory, including padding: [rows, samples], from the top row of the picture to the bottom."""
    rows = torch.frombuffer(plane, dtype=dtype).view(plane.height, -1)
    return rows.flip(0) if plane.line_size < 0 else rows


def frame_from(planes: Sequence[Tensor], layout: YuvLayout, stored: str | None = None) -> av.VideoFrame:
    """Make a frame for an encoder, with the layout's matrix and range as tags.

    Args:
        planes: [H, W] and [h, w] on the CPU, as `from_rgb` gives them for one frame.
        layout: the layout of the planes: progressive, without unused bits in words.
        stored: the pixel format of the frame, which must have the same samples in another arrangement (p010le, bgr0);
            None: the planar format of the layout.

    Raises:
        ValueError: no planar format has this layout.
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
    """libav's name of the planar format of a layout, for encoders. The range is a tag (yuv420p, not yuvj420p).

    Raises:
        ValueError: the layout is interlaced, has unused bits, or is gray with alpha, or its subsampling has no format.
    """
    sampling = {ratios: digits for digits, ratios in SUBSAMPLING.items()}.get(layout.subsampling)
    if layout.shift or layout.interlaced or sampling is None or (layout.alpha and layout.model == "grey"):
        raise ValueError(f"frames are made of planar, progressive pictures, grey ones without alpha, not of {layout}")
    alpha = "a" if layout.alpha else ""
    name = {"grey": "gray", "rgb": f"gbr{alpha}p", "yuv": f"yuv{alpha}{sampling}p"}[layout.model]
    return name if layout.depth == 8 else f"{name}{layout.depth}le"


def stacked(pictures: Sequence[Sequence[Tensor]], pin_memory: bool = False) -> tuple[Tensor, ...]:
    """Stack the planes of single frames to planes of a clip, with one copy into one block of memory for each plane.

    Args:
        pictures: for each frame its planes [1, h, w]; all frames have one layout and size.
        pin_memory: use page-locked memory, so that copies to a CUDA device are asynchronous.

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
    """The chroma location of a frame; "center" if the file does not state it, as in libswscale.

    PyAV does not expose AVFrame.chroma_location, but libswscale uses it. So a small frame with the same properties and
    a ramp of colour is converted to RGB; the position of the ramp's middle gives the location.
    """
    try:
        # Two steps, since `reformat` returns a frame itself if it already has this size and format.
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
    x, y = (Fraction(round(2 * (grey - red) / red_per_sample)) for red in found)  # in halves of a luma sample
    return next((name for name, site in SITES.items() if (2 * site[0], 2 * site[1]) == (x, y)), "center")
