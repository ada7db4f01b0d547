"""How do decoded frames become RGB, and RGB frames what an encoder wants?

swscale converts; this file tells it the matrix and the range, and asks for exact rounding and interpolated chroma
(its default takes the nearest chroma sample, which shifts edges by half a pixel). Transfer curves and primaries stay
as they are.
"""

import av
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from torch import Tensor

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP

# Numbers of AVColorSpace (ITU-T H.273), which PyAV passes through on frames.
MATRIX_BT709, MATRIX_UNSPECIFIED, MATRIX_BT601, MATRIX_BT2020, MATRIX_BT2020_CONSTANT = 1, 2, 5, 9, 10
HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def to_rgb(frame: av.VideoFrame, width: int, height: int) -> Tensor:
    """A decoded frame of any pixel format -> u8 [3, height, width] RGB, full range.

    A frame that does not name its matrix is taken as BT.709 above 576 rows or 1024 columns and BT.601 below, as
    players do. `width` and `height` are the clip's: a frame of another size (some streams change midway) is scaled to
    it.
    """
    if frame.colorspace == MATRIX_UNSPECIFIED:
        large = frame.height > 576 or frame.width > 1024
        frame.colorspace = MATRIX_BT709 if large else MATRIX_BT601
    elif frame.colorspace == MATRIX_BT2020_CONSTANT:
        frame.colorspace = MATRIX_BT2020
    rgb = frame.reformat(width, height, format="rgb24", interpolation=int(EXACT))
    return torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1).contiguous()


def from_rgb(pixels: Tensor) -> av.VideoFrame:
    """u8 [3, H, W] RGB, even sides -> a yuv420p frame, BT.709, limited range, tagged so."""
    rgb = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy(), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=int(EXACT),
    )
    tag_bt709(frame)
    return frame


def tag_bt709(target: av.VideoFrame | av.VideoCodecContext) -> None:
    """Write the four colour tags of BT.709 limited range on a frame or an encoder."""
    target.colorspace = MATRIX_BT709
    target.color_range = ColorRange.MPEG
    target.color_primaries = ColorPrimaries.BT709
    target.color_trc = ColorTrc.BT709
