"""Which colours does a clip say it has?"""

import av
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from data.pixel_formats import MATRIX_BT709

HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def tag_bt709(target: av.VideoFrame | av.VideoCodecContext) -> None:
    """Write the four colour tags of BT.709 limited range on a frame or an encoder."""
    target.colorspace = MATRIX_BT709
    target.color_range = ColorRange.MPEG
    target.color_primaries = ColorPrimaries.BT709
    target.color_trc = ColorTrc.BT709
