"""How does a clip fit the network? Time in steps of `factor`, sides in multiples, long clips in slices.

The causal VAE turns frame 0 into one latent frame and every further `factor` frames into one more, so a clip must have
factor * n + 1 frames. This file is the only place that knows that rule. T frames, t latent frames.
"""

import torch
from torch import Tensor


def causal_length(frames: int, factor: int = 4) -> int:
    """The smallest factor * n + 1 that is at least `frames`."""
    if frames < 1:
        raise ValueError(f"a clip needs at least one frame, got {frames}")
    return 1 + -(-(frames - 1) // factor) * factor


def latent_frames(frames: int, factor: int = 4) -> int:
    """Latent frames of a clip of factor * n + 1 frames; ValueError for any other length."""
    if frames != causal_length(frames, factor):
        raise ValueError(f"{frames} frames; the VAE needs {factor}n+1, pad_to_causal() does this")
    return 1 + (frames - 1) // factor


def pad_to_causal(clip: Tensor, factor: int = 4) -> Tensor:
    """Repeat the last frame until the length is factor * n + 1: [C, T, H, W] -> [C, T', H, W].

    The caller cuts the result back to T.
    """
    missing = causal_length(clip.shape[1], factor) - clip.shape[1]
    if missing == 0:
        return clip
    return torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1)], dim=1)


def pad_to_multiple(frames: Tensor, multiple: int = 16) -> Tensor:
    """Mirror the bottom and right edge until both sides are multiples: [..., H, W] -> [..., H', W'], any dtype.

    A side too short to mirror that far repeats its last row or column instead.
    The caller cuts the result back with `[..., :H, :W]`.
    """
    for axis in (-2, -1):
        size = frames.shape[axis]
        padded = -(-size // multiple) * multiple
        if padded == size:
            continue
        source = torch.arange(padded, device=frames.device)
        mirrored = 2 * (size - 1) - source  # the edge itself is not repeated
        reaches = padded - size <= size - 1
        source = torch.where(source < size, source, mirrored if reaches else torch.full_like(source, size - 1))
        frames = frames.index_select(axis, source)
    return frames


def slice_plan(total_frames: int, slice_frames: int, factor: int = 4) -> list[int]:
    """Lengths of the slices a clip is encoded in: [1 + s, s, s, ..., rest], which sum to `total_frames`.

    Args:
        total_frames: factor * n + 1.
        slice_frames: s, a multiple of `factor`, so that every slice ends where a latent frame ends.
    """
    latent_frames(total_frames, factor)
    if slice_frames < factor or slice_frames % factor:
        raise ValueError(f"slices of {slice_frames} frames would cut a latent frame; use a multiple of {factor}")
    plan = [min(1 + slice_frames, total_frames)]
    while (left := total_frames - sum(plan)) > 0:
        plan.append(min(slice_frames, left))
    return plan
