"""Colour conversion by libswscale, the twin that the project's own is compared with."""

import av
import torch
from av.video.reformatter import ColorRange, Colorspace

from data.media.colour import SDR, tag
from data.pixel_formats import EXACT, to_rgb24


def to_rgb(frame: av.VideoFrame, width: int, height: int) -> torch.Tensor:
    """A decoded frame of any pixel format -> u8 [3, height, width] RGB, full range."""
    return torch.from_numpy(to_rgb24(frame, width, height).to_ndarray()).permute(2, 0, 1).contiguous()


def from_rgb(pixels: torch.Tensor) -> av.VideoFrame:
    """u8 [3, H, W] RGB, even sides -> a yuv420p frame, BT.709, limited range, tagged so; chroma in the centre."""
    rgb = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=EXACT
    )
    tag(frame, SDR, SDR.matrix)
    return frame
