"""Which numbers of frames and which sizes do the networks take?

The causal VAE encodes frame 0 as one latent frame, and every further `factor` frames as one more. So a clip must have
factor * n + 1 frames. Sides must be multiples of 16 pixels.
"""

import torch
from torch import Tensor


def causal_length(frames: int, factor: int = 4) -> int:
    """The smallest factor * n + 1 that is at least `frames`. Raises ValueError for less than one frame."""
    if frames < 1:
        raise ValueError(f"a clip needs at least one frame, got {frames}")
    return 1 + -(-(frames - 1) // factor) * factor


def latent_frames(frames: int, factor: int = 4) -> int:
    """The number of latent frames of a clip of factor * n + 1 frames. Raises ValueError for any other length."""
    if frames != causal_length(frames, factor):
        fitting = causal_length(frames, factor)
        raise ValueError(f"{frames} frames; the VAE needs {factor}n+1: repeat the last frame until there are {fitting}")
    return latents_within(frames, factor)


def latents_within(frames: int, factor: int = 4) -> int:
    """The largest number of latent frames whose clip has at most `frames` frames; `frames` is at least 1."""
    return 1 + (frames - 1) // factor


def pixel_frames(latents: int, factor: int = 4) -> int:
    """The number of frames of a clip with this many latent frames, at least 1; the inverse of `latent_frames`."""
    return 1 + (latents - 1) * factor


def pad_to_multiple(frames: Tensor, multiple: int = 16) -> Tensor:
    """Pad the bottom and the right edge by reflection until both sides are multiples of `multiple` pixels.

    If a side is too short for the reflection, its last row or column is repeated instead. The caller crops the result
    with `[..., :H, :W]`.

    Args:
        frames: [..., H, W], any dtype.

    Returns:
        [..., H', W'] with sides rounded up to multiples; `frames` itself if they are multiples already.
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
