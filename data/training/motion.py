"""Makes a short clip from a photograph, with a virtual camera that drifts, turns, zooms and shakes a little."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class MotionConfig:
    """Ranges from which the camera's motion is drawn for every clip.

    Attributes:
        pan: the largest drift, in pixels per frame.
        turn: the largest rotation, in degrees per frame.
        zoom: the largest change of scale per frame, as a fraction.
        scale: photograph pixels per clip pixel at the start; values near 1 keep the sharpness of the photograph.
        shake: the amplitude of camera shake, in pixels.
        still: the probability of a camera that does not move.
    """

    pan: float = 3.0
    turn: float = 0.3
    zoom: float = 0.008
    scale: tuple[float, float] = (0.85, 1.1)
    shake: float = 1.0
    still: float = 0.05


def animate(
    image: np.ndarray, frames: int, height: int, width: int, generator: np.random.Generator, config: MotionConfig
) -> np.ndarray:
    """Make a clip with a camera that moves over a photograph.

    Args:
        image: uint8 [H, W, 3], at least height x width pixels.
        frames, height, width: size of the clip.

    Returns:
        uint8 [frames, height, width, 3]. The photograph is mirrored at its borders.
    """
    matrices = camera_path(image.shape[0], image.shape[1], frames, height, width, generator, config)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = [
        cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for matrix in matrices
    ]
    return np.stack(warped)


def camera_path(
    image_height: int,
    image_width: int,
    frames: int,
    height: int,
    width: int,
    generator: np.random.Generator,
    config: MotionConfig,
) -> np.ndarray:
    """Affine maps from clip pixels (x, y, 1) to photograph pixels: float64 [frames, 2, 3]."""
    moving = generator.random() >= config.still
    t = np.arange(frames) - (frames - 1) / 2
    scale = generator.uniform(*config.scale) * np.exp(moving * generator.uniform(-config.zoom, config.zoom) * t)
    scale = np.minimum(scale, min(image_height / height, image_width / width))
    angle = moving * np.deg2rad(generator.uniform(-config.turn, config.turn)) * t
    direction, speed = (
        generator.uniform(0, 2 * np.pi),
        moving * config.pan * generator.random() ** 2,
    )  # slow pans are common
    drift = speed * t[:, None] * np.array([np.cos(direction), np.sin(direction)])
    centre = _room(
        generator, image_width, image_height, scale.max() * width, scale.max() * height, np.abs(drift).max(axis=0)
    )
    centre = centre + drift + moving * _shake(generator, frames, config.shake)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)  # T 2 2
    clip_centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - linear @ clip_centre  # T 2
    return np.concatenate([linear, offset[..., None]], axis=-1)


def _room(
    generator: np.random.Generator, image_width: int, image_height: int, width: float, height: float, drift: np.ndarray
) -> np.ndarray:
    """A random centre of the path, so that the path stays inside the photograph if that is large enough."""
    centre = []
    for side, view, reach in ((image_width, width, drift[0]), (image_height, height, drift[1])):
        low, high = view / 2 + reach, side - 1 - view / 2 - reach
        centre.append(generator.uniform(low, high) if low < high else (side - 1) / 2)
    return np.array(centre)


def _shake(generator: np.random.Generator, frames: int, amplitude: float) -> np.ndarray:
    """Camera shake: the sum of two slow sines per axis, [frames, 2] in pixels."""
    t = np.arange(frames)[:, None, None]
    period, phase = generator.uniform(8, 30, (2, 2)), generator.uniform(0, 2 * np.pi, (2, 2))
    size = amplitude * generator.random((2, 2)) / 2
    return (size * np.sin(2 * np.pi * t / period + phase)).sum(axis=-1)
