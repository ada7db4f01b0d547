"""How does a clip fit the network? Frames in steps of `factor`, sides in multiples.

The causal VAE turns frame 0 into one latent frame and every further `factor` frames into one more, so a clip must have
factor * n + 1 frames.
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
        fitting = causal_length(frames, factor)
        raise ValueError(f"{frames} frames; the VAE needs {factor}n+1: repeat the last frame until there are {fitting}")
    return latents_within(frames, factor)


def latents_within(frames: int, factor: int = 4) -> int:
    """The most latent frames whose clip has at most `frames` frames; `frames` is at least 1."""
    return 1 + (frames - 1) // factor


def pixel_frames(latents: int, factor: int = 4) -> int:
    """Frames of a clip with this many latent frames, at least one: the inverse of `latent_frames`."""
    return 1 + (latents - 1) * factor


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
