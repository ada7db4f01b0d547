"""Unsharp mask: the recipe sharpens the ground truth before it degrades it, so that models learn to sharpen."""

import cv2
import numpy as np

from data.degradation.blur import Frames
from data.degradation.config import SharpenConfig


def apply_sharpen(frames: Frames, config: SharpenConfig) -> Frames:
    """Sharpen the pixels of every frame that differ from the blurred frame by more than the threshold.

    The mask of these pixels is blurred as well, so that sharpened regions have soft borders.

    Args:
        frames: float32 [h, w, 3] in [0, 1].
        config: the blur's size in pixels (its sigma follows from the size), the weight, the threshold in 8-bit levels.

    Returns:
        float32 frames in [0, 1].
    """
    return [_sharpen(frame, config) for frame in frames]


def _sharpen(frame: np.ndarray, config: SharpenConfig) -> np.ndarray:
    size = (config.kernel, config.kernel)
    residual = frame - cv2.GaussianBlur(frame, size, 0, borderType=cv2.BORDER_REFLECT_101)
    mask = (np.abs(residual) * 255 > config.threshold).astype(np.float32)
    soft = cv2.GaussianBlur(mask, size, 0, borderType=cv2.BORDER_REFLECT_101)
    sharp = np.clip(frame + np.float32(config.weight) * residual, 0, 1)
    return soft * sharp + (1 - soft) * frame
