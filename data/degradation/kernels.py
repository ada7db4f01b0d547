"""Formulas of blur kernels, one kernel per frame: [T, size, size] float32, each with sum one.

Legend: T frames; u the offset from the centre in pixels; Sigma = R diag(sx^2, sy^2) R^T; q = u^T Sigma^-1 u.
Sources: Real-ESRGAN (arXiv 2107.10833) section 3 and appendix; generalised and plateau kernels, Liu et al. 2020.
"""

import numpy as np
from scipy.special import j1


def squared_distance(size: int, sigma_x: np.ndarray, sigma_y: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The Mahalanobis distance q on the kernel's grid.

    Args:
        size: odd number of taps on a side.
        sigma_x: [T] standard deviation along the rotated first axis, pixels; `sigma_y` along the second.
        angle: [T] rotation, radians.

    Returns:
        float64 [T, size, size].
    """
    if size % 2 == 0:
        raise ValueError(f"a kernel needs an odd size so that it has a centre, not {size}.")
    offset = np.arange(size) - size // 2
    x, y = np.meshgrid(offset, offset)
    cos, sin = (f(np.asarray(angle, dtype=np.float64))[:, None, None] for f in (np.cos, np.sin))
    along, across = x * cos + y * sin, -x * sin + y * cos
    return (along / np.asarray(sigma_x)[:, None, None]) ** 2 + (across / np.asarray(sigma_y)[:, None, None]) ** 2


def gaussian(q: np.ndarray) -> np.ndarray:
    """exp(-q / 2)."""
    return _normalised(np.exp(-0.5 * q))


def generalised(q: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """exp(-q^beta / 2): beta [T] below 1 has a sharp peak and long tails, above 1 a flat top."""
    return _normalised(np.exp(-0.5 * q ** np.asarray(beta)[:, None, None]))


def plateau(q: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """1 / (1 + q^beta)."""
    return _normalised(1 / (1 + q ** np.asarray(beta)[:, None, None]))


def sinc(size: int, cutoff: np.ndarray) -> np.ndarray:
    """The circular low pass w J1(w r) / (2 pi r), its centre w^2 / (4 pi).

    Args:
        size: odd number of taps on a side.
        cutoff: [T] angular frequency w in radians per pixel, (0, pi].
    """
    ones = np.ones(len(cutoff))
    q = squared_distance(size, ones, ones, angle=np.zeros(len(cutoff)))
    r = np.sqrt(q)
    w = np.asarray(cutoff, dtype=np.float64)[:, None, None]
    kernel = w * j1(w * r) / (2 * np.pi * np.where(r == 0, 1, r))
    return _normalised(np.where(r == 0, w**2 / (4 * np.pi), kernel))


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum(axis=(1, 2), keepdims=True)).astype(np.float32)
