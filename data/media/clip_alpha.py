"""Composites transparent frames over white, for results without transparency.

In HDR, white is the reference white of ITU-R BT.2408 (203 nits), not the peak.
"""

import av
import torch

from data.media.colour import HLG, PQ
from data.media.frame import MOST, Frame, alpha_of, rgb_of
from data.media.image_pixels import over_white_pixels
from data.media.video_file import means_transparency
from data.pixel_formats import to_rgb24

TRANSPARENT = "has transparency, which is laid over white"
WHITE_CODES = {PQ: 0.5807, HLG: 0.75}


def laid_over_white(frame: av.VideoFrame, stream: av.VideoStream) -> av.VideoFrame | None:
    """The frame as rgb24, composited over white; None if every pixel is opaque. `pts` and `time_base` are kept."""
    if not means_transparency(frame, stream):
        return None
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]  # H W
    if alpha.min(initial=255) == 255:
        return None
    pixels = to_rgb24(frame, frame.width, frame.height).to_ndarray()  # H W 3
    result = av.VideoFrame.from_ndarray(over_white_pixels(pixels, alpha[..., None]), format="rgb24")
    result.pts, result.time_base = frame.pts, frame.time_base
    return result


def deep_over_white(frame: Frame, transfer: int) -> Frame | None:
    """A frame of more than 8 bits, composited over white, as 16-bit RGB; None if every pixel is opaque.

    Args:
        frame: with or without an alpha plane.
        transfer: the frame's transfer characteristics, a number of ITU-T H.273; it decides the code of white.
    """
    alpha = alpha_of([frame])
    if alpha is None or alpha.min() == 1:
        return None
    pixels = rgb_of([frame], dtype=torch.float32)
    laid = pixels * alpha + WHITE_CODES.get(transfer, 1.0) * (1 - alpha)
    return Frame.of_rgb(laid.mul_(MOST).round_().to(torch.int32).to(torch.int16)[0], frame.time)
