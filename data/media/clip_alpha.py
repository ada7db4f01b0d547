"""What becomes of the transparency of a clip? It is laid over white, as that of an animation is."""

import av

from data.media.image_pixels import over_white_pixels
from data.pixel_formats import to_rgb24


def laid_over_white(frame: av.VideoFrame, stream: av.VideoStream) -> av.VideoFrame | None:
    """The frame as rgb24 over white; None where it has no transparency, or none that shows.

    Uncompressed AVIs have a fourth byte that says nothing.
    """
    means_nothing = stream.codec_context.name in ("rawvideo", "bmp") and stream.container.format.name == "avi"
    if means_nothing or not any(component.is_alpha for component in frame.format.components):
        return None
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]  # H W
    if alpha.min(initial=255) == 255:
        return None
    pixels = to_rgb24(frame, frame.width, frame.height).to_ndarray()  # H W 3
    result = av.VideoFrame.from_ndarray(over_white_pixels(pixels, alpha[..., None]), format="rgb24")
    result.pts, result.time_base = frame.pts, frame.time_base
    return result
