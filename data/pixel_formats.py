"""Conversion of decoded pictures to RGB and back by swscale. Without torch, for worker processes."""

import av
from av.video.reformatter import Interpolation

# Exact rounding and interpolated chroma. By default swscale takes the nearest chroma sample, which shifts edges by half
# a pixel, and a round trip through YUV loses more than one level of 255.
EXACT = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)

# Numbers of AVColorSpace (ITU-T H.273), which PyAV passes through on frames.
MATRIX_BT709, MATRIX_UNSPECIFIED, MATRIX_BT601, MATRIX_BT2020, MATRIX_BT2020_CONSTANT = 1, 2, 5, 9, 10


def to_rgb24(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A decoded frame of any pixel format as rgb24, full range, of the given size.

    A frame that does not name its matrix is taken as BT.709 above 576 rows or 1024 columns and BT.601 below, as
    players do.
    """
    if frame.colorspace == MATRIX_UNSPECIFIED:
        large = frame.height > 576 or frame.width > 1024
        frame.colorspace = MATRIX_BT709 if large else MATRIX_BT601
    elif frame.colorspace == MATRIX_BT2020_CONSTANT:
        frame.colorspace = MATRIX_BT2020
    return frame.reformat(width, height, format="rgb24", interpolation=EXACT)
