"""Blur: a kernel per frame, of one kind and size for the clip."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.degradation import kernels
from data.degradation.config import BlurConfig, SincConfig, Walk
from data.degradation.random_walks import choose, walk, walk_with_half_below_one

Frames = list[np.ndarray]  # float32 [h, w, 3] in [0, 1] or a little outside; frames may have different sizes

LARGE_SINC = 13  # from this size on a sinc kernel has room for a lower cutoff


@dataclass(frozen=True)
class BlurDraw:
    """A drawn blur: `kernels` float32 [T, size, size] and their parameters. Kind `identity` changes nothing."""

    kind: str
    size: int
    kernels: np.ndarray
    parameters: dict[str, np.ndarray]


def draw_blur(config: BlurConfig, frames: int, generator: np.random.Generator) -> BlurDraw:
    """Draw the kind and the size once per clip, and the kernel's parameters for each of `frames` frames."""
    if generator.random() >= config.probability:
        return _identity(frames)
    kind, size = choose(generator, config.kinds), int(generator.choice(config.sizes))
    if kind == "sinc":
        return _draw_sinc(size, config.cutoff_small if size < LARGE_SINC else config.cutoff_large, frames, generator)
    shape, _, spread = kind.rpartition("_")
    if shape not in ("", "generalised", "plateau") or spread not in ("iso", "aniso"):
        raise ValueError(
            f"blur kinds are iso and aniso, plain or after generalised_ or plateau_, and sinc; not {kind}."
        )
    sigma_x = walk(generator, config.sigma, frames)
    isotropic = spread == "iso"
    sigma_y = sigma_x if isotropic else walk(generator, config.sigma, frames)
    angle = np.zeros(frames) if isotropic else walk(generator, config.angle, frames)
    q = kernels.squared_distance(size, sigma_x, sigma_y, angle)
    parameters = {"sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
    if not shape:
        return BlurDraw(kind, size, kernels.gaussian(q), parameters)
    is_plateau = shape == "plateau"
    beta = walk_with_half_below_one(generator, config.beta_plateau if is_plateau else config.beta_generalised, frames)
    kernel = kernels.plateau(q, beta) if is_plateau else kernels.generalised(q, beta)
    return BlurDraw(kind, size, kernel, parameters | {"beta": beta})


def draw_sinc(config: SincConfig, frames: int, generator: np.random.Generator) -> BlurDraw:
    """Draw the sinc filter that ends the recipe, or the identity."""
    if generator.random() >= config.probability:
        return _identity(frames)
    return _draw_sinc(int(generator.choice(config.sizes)), config.cutoff, frames, generator)


def apply_blur(frames: Frames, draw: BlurDraw) -> Frames:
    """Filter every frame with its kernel; borders are mirrored without repeating the edge pixel."""
    if draw.kind == "identity":
        return frames
    return [_filter(frame, kernel, draw.kind) for frame, kernel in zip(frames, draw.kernels, strict=True)]


def _filter(frame: np.ndarray, kernel: np.ndarray, kind: str) -> np.ndarray:
    if kind == "iso":  # only the isotropic Gaussian is separable, which is much faster
        profile = kernel.sum(axis=0)
        return cv2.sepFilter2D(frame, -1, profile, profile, borderType=cv2.BORDER_REFLECT_101)
    return cv2.filter2D(frame, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _draw_sinc(size: int, cutoff: Walk, frames: int, generator: np.random.Generator) -> BlurDraw:
    w = walk(generator, cutoff, frames)
    return BlurDraw("sinc", size, kernels.sinc(size, w), {"cutoff": w})


def _identity(frames: int) -> BlurDraw:
    return BlurDraw("identity", 1, np.ones((frames, 1, 1), dtype=np.float32), {})
