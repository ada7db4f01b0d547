"""Detects scene cuts: a model of temporally consistent clips should not be trained across two scenes."""

import cv2
import numpy as np

EDGE = 16  # pixels a side of the thumbnails that are compared
LEAST = 24.0  # mean difference of grey levels, of 255, below which nothing is a cut
PROMINENT = 4.0  # a cut changes the picture this many times as much as the clip's usual step does


def has_cut(frames: np.ndarray) -> bool:
    """Compare thumbnails of consecutive frames; steady motion, however fast, changes all of them alike.

    Args:
        frames: uint8 [T, H, W, 3].
    """
    if len(frames) < 2:
        return False
    small = [cv2.resize(frame, (EDGE, EDGE), interpolation=cv2.INTER_AREA).mean(2) for frame in frames]  # T of 16 16
    steps = np.abs(np.diff(np.stack(small), axis=0)).mean((1, 2))  # T - 1
    largest = float(steps.max())
    usual = float(np.median(np.delete(steps, steps.argmax()))) if len(steps) > 1 else 0.0
    return largest > LEAST and largest > PROMINENT * usual
