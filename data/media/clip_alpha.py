"""Composites transparent frames over white, where the result has no transparency.

In HDR, white is the reference white of ITU-R BT.2408 (203 nits), not the brightest light.
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
    """The frame as rgb24 over white; None where every pixel is opaque."""
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
    """A frame of more than 8 bits with alpha, over white, as RGB of 16 bits; None where every pixel is opaque.

    Args:
        transfer: of its colour.
    """
    alpha = alpha_of([frame])
    if alpha is None or alpha.min() == 1:
        return None
    pixels = rgb_of([frame], dtype=torch.float32)
    laid = pixels * alpha + WHITE_CODES.get(transfer, 1.0) * (1 - alpha)
    return Frame.of_rgb(laid.mul_(MOST).round_().to(torch.int32).to(torch.int16)[0], frame.time)
