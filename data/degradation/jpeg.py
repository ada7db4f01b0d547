"""JPEG compression: encodes and decodes every frame, at a quality that is a random walk over frames."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.degradation.blur import Frames
from data.degradation.config import JpegConfig
from data.degradation.random_walks import walk


@dataclass(frozen=True)
class JpegDraw:
    """Drawn qualities, int [T], 1 to 100."""

    qualities: np.ndarray


def draw_jpeg(config: JpegConfig, frames: int, generator: np.random.Generator) -> JpegDraw:
    """Draw a quality for each of `frames` frames."""
    return JpegDraw(np.rint(walk(generator, config.quality, frames)).astype(int))


def apply_jpeg(frames: Frames, draw: JpegDraw) -> Frames:
    """Encode and decode every frame; the result has 8-bit values in [0, 1]."""
    return [_decode(encode_jpeg(frame, int(q))) for frame, q in zip(frames, draw.qualities, strict=True)]


def encode_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    """The JPEG file (uint8 [bytes], 4:2:0) of one float32 frame [h, w, 3], clipped to [0, 1] first."""
    bgr = cv2.cvtColor(unit_to_uint8(frame), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


def unit_to_uint8(frame: np.ndarray) -> np.ndarray:
    """float [...] to uint8: clipped before the cast, because a cast alone lets values outside [0, 1] wrap around."""
    return np.clip(np.rint(frame * 255), 0, 255).astype(np.uint8)


def uint8_to_unit(frame: np.ndarray) -> np.ndarray:
    """uint8 [...] to float32 in [0, 1]."""
    return frame.astype(np.float32) * np.float32(1 / 255)


def _decode(encoded: np.ndarray) -> np.ndarray:
    bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert bgr is not None, "it was encoded here"
    return uint8_to_unit(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
