"""Noise that depends only on the seed, its purpose and its latent frame.

Every latent frame has its own CPU generator. So a clip gives the same result alone or in a folder, whole or in slices,
after a resume, and on any number of devices; and a draw for one purpose never shifts another's.
"""

import hashlib

import torch
from torch import Tensor

KINDS = ("posterior", "start", "condition")


def frame_noise(
    seed: int, kind: str, first_frame: int, frames: int, height: int, width: int, channels: int = 16
) -> Tensor:
    """Standard normal noise for latent frames first_frame ... first_frame + frames - 1 of a clip.

    Args:
        seed: the user's seed, any integer.
        kind: what it is for: "posterior" (sampling the VAE), "start" (where the sampler begins) or "condition".
        height, width: of the latents.

    Returns:
        float32 [frames, height, width, channels] on the CPU. A frame's values depend on nothing but seed, kind, its own
        index in the clip and the size of a frame.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of noise {kind!r}; known are {', '.join(KINDS)}")
    if first_frame < 0 or frames < 0:
        raise ValueError(f"frames are counted from 0 upwards, got {frames} frames from {first_frame}")
    noise = torch.empty(frames, height, width, channels, dtype=torch.float32, device="cpu")
    for i in range(frames):
        generator = torch.Generator("cpu").manual_seed(frame_seed(seed, kind, first_frame + i))
        noise[i] = torch.randn(height, width, channels, generator=generator, dtype=torch.float32, device="cpu")
    return noise


def frame_seed(seed: int, kind: str, frame: int) -> int:
    """A generator's seed in [0, 2^63) for one frame; a hash, so that neighbouring seeds and frames share nothing."""
    digest = hashlib.sha256(f"{int(seed)}/{kind}/{int(frame)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
