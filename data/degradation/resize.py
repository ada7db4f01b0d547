"""Random resizing: one interpolation per clip, and a scale that is a random walk over frames."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from data.degradation.blur import Frames
from data.degradation.config import ResizeConfig, Walk
from data.degradation.random_walks import choose, walk

MIN_SIDE = 16  # pixels: one macroblock, the smallest side that every encoder accepts


@dataclass(frozen=True)
class ResizeDraw:
    """A drawn resize: `scales` float64 [T], relative to `ResizeConfig.relative_to`; `mode` is up, down or keep."""

    mode: str
    interpolation: str
    scales: np.ndarray


def draw_resize(config: ResizeConfig, frames: int, generator: np.random.Generator) -> ResizeDraw:
    """Draw the direction and the interpolation once per clip, and the scale for each of `frames` frames."""
    mode, interpolation = choose(generator, config.modes), choose(generator, config.interpolations)
    low, high = config.scale.range
    if mode == "keep":
        return ResizeDraw(mode, interpolation, np.ones(frames))
    if mode not in ("up", "down"):
        raise ValueError(f"resize modes are up, down and keep, not `{mode}`.")
    side = (min(1.0, low), 1.0) if mode == "down" else (1.0, max(1.0, high))
    return ResizeDraw(mode, interpolation, walk(generator, Walk(side, config.scale.walk), frames))


def apply_resize(frames: Frames, draw: ResizeDraw, relative_to: tuple[int, int] | None = None) -> Frames:
    """Resize every frame by its scale, to even sides (what 4:2:0 video needs), never below `MIN_SIDE`.

    Args:
        frames: float32 [h, w, 3] each.
        draw: from `draw_resize`.
        relative_to: (height, width) in pixels to which the scales refer; None: each frame's own size.
    """
    sizes = [relative_to or frame.shape[:2] for frame in frames]
    pairs = zip(frames, sizes, draw.scales, strict=True)
    return [_to_size(f, _even(h * s), _even(w * s), draw.interpolation) for f, (h, w), s in pairs]


def resize_to(frames: Frames, height: int, width: int, interpolation: str) -> Frames:
    """Resize every frame to one size in pixels."""
    return [_to_size(frame, height, width, interpolation) for frame in frames]


def draw_interpolation(interpolations: Mapping[str, float], generator: np.random.Generator) -> str:
    """Draw bilinear, area or bicubic."""
    return choose(generator, interpolations)


def _even(side: float) -> int:
    return max(MIN_SIDE, 2 * round(side / 2))


def _to_size(frame: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    flags = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}
    if interpolation not in flags:
        raise ValueError(f"interpolations are {sorted(flags)}, not `{interpolation}`.")
    if frame.shape[:2] == (height, width):
        return frame
    return cv2.resize(frame, (width, height), interpolation=flags[interpolation])
