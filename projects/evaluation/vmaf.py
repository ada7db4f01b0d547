"""VMAF, computed by the package vmaf-torch, which contains the model v0.6.1 (`pip install vmaf-torch`)."""

import numpy as np
import torch

SMALLEST = 192  # pixels a side; in smaller frames the coarsest scale of the measure is empty


def vmaf(result: np.ndarray, truth: np.ndarray, device: torch.device | str = "cpu") -> float:
    """VMAF, the mean over frames, at most 100. For a single frame the motion feature is left out.

    Args:
        result, truth: luma in [16, 235], [T, H, W].

    Raises:
        ValueError: the package is missing, or the frames are too small.
    """
    try:
        from vmaf_torch import VMAF
    except ImportError as error:
        raise ValueError(f"vmaf needs the package {error.name}, which is missing: pip install vmaf-torch") from error
    if min(truth.shape[1:]) < SMALLEST:
        raise ValueError(f"vmaf needs frames of {SMALLEST} pixels a side, not {truth.shape[2]}x{truth.shape[1]}")
    measure = VMAF(temporal_pooling=True, enable_motion=len(truth) > 1, clip_score=True).to(device)
    reference, distorted = (torch.from_numpy(x).float()[:, None].to(device) for x in (truth, result))
    with torch.no_grad():
        return float(measure(reference, distorted))
