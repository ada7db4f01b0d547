"""Sensor noise: Gaussian (read-out) or Poisson (photons), independent for each channel or equal in all."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.degradation.blur import Frames
from data.degradation.config import NoiseConfig
from data.degradation.jpeg import unit_to_uint8
from data.degradation.random_walks import choose, walk


@dataclass(frozen=True)
class NoiseDraw:
    """A drawn noise: `levels` float64 [T], 8-bit levels for `gaussian`, the scale for `poisson`."""

    kind: str
    gray: bool
    levels: np.ndarray


def draw_noise(config: NoiseConfig, frames: int, generator: np.random.Generator) -> NoiseDraw:
    """Draw the kind and gray or colour once per clip, and the level for each of `frames` frames."""
    kind, gray = choose(generator, config.kinds), bool(generator.random() < config.gray)
    if kind not in ("gaussian", "poisson"):
        raise ValueError(f"noise kinds are gaussian and poisson, not `{kind}`.")
    return NoiseDraw(kind, gray, walk(generator, config.sigma if kind == "gaussian" else config.poisson_scale, frames))


def apply_noise(frames: Frames, draw: NoiseDraw, generator: np.random.Generator) -> Frames:
    """Add noise to every frame. The result is not clipped: sums of noise and filters may leave [0, 1]."""
    make = _gaussian if draw.kind == "gaussian" else _poisson
    return [frame + make(frame, level, draw.gray, generator) for frame, level in zip(frames, draw.levels, strict=True)]


def _gaussian(frame: np.ndarray, sigma: float, gray: bool, generator: np.random.Generator) -> np.ndarray:
    """float32, [h, w, 3] or [h, w, 1], standard deviation sigma / 255."""
    shape = (*frame.shape[:2], 1 if gray else 3)
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(sigma / 255)


def _poisson(frame: np.ndarray, scale: float, gray: bool, generator: np.random.Generator) -> np.ndarray:
    """(Poisson(x V) / V - x) scale for x in [0, 1] at 8 bits: variance scale^2 x / V.

    V, the number of photons of full white, is the number of distinct 8-bit values, rounded up to a power of two. A
    frame with few values therefore gets strong noise, as in the original recipe. x is in [0, 1]; with x in 0..255 the
    same formula would give sixteen times weaker noise.
    """
    if gray:
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
    levels = unit_to_uint8(frame)
    distinct = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    white = 2.0 ** np.ceil(np.log2(distinct))
    x = levels.astype(np.float32) / 255
    return ((generator.poisson(x * white) / white).astype(np.float32) - x) * np.float32(scale)
