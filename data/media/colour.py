"""How do decoded frames become RGB tensors, and RGB tensors what an encoder wants?

`data.pixel_formats` converts; transfer curves and primaries stay as they are.
"""

import av
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from torch import Tensor

from data.pixel_formats import EXACT, MATRIX_BT709, to_rgb24

HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def to_rgb(frame: av.VideoFrame, width: int, height: int) -> Tensor:
    """A decoded frame of any pixel format -> u8 [3, height, width] RGB, full range.

    `width` and `height` are the clip's: a frame of another size (some streams change midway) is scaled to it.
    """
    return torch.from_numpy(to_rgb24(frame, width, height).to_ndarray()).permute(2, 0, 1).contiguous()


def from_rgb(pixels: Tensor) -> av.VideoFrame:
    """u8 [3, H, W] RGB, even sides -> a yuv420p frame, BT.709, limited range, tagged so."""
    rgb = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy(), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT,
    )
    tag_bt709(frame)
    return frame


def tag_bt709(target: av.VideoFrame | av.VideoCodecContext) -> None:
    """Write the four colour tags of BT.709 limited range on a frame or an encoder."""
    target.colorspace = MATRIX_BT709
    target.color_range = ColorRange.MPEG
    target.color_primaries = ColorPrimaries.BT709
    target.color_trc = ColorTrc.BT709
