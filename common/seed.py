"""Noise that depends only on the seed, its purpose and its latent frame.

Every latent frame has its own CPU generator. The noise of a clip is therefore the same alone or in a folder, in slices,
after a resume, and on any number of devices, and noise for one purpose does not affect noise for another.
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
        kind: the purpose: "posterior" (sampling the VAE), "start" (the sampler's x_T) or "condition".
        height, width: size of the latents.

    Returns:
        float32 [frames, height, width, channels] on the CPU. The values of a frame depend only on seed, kind, its index
        in the clip and the size of a frame.
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
    """The seed in [0, 2^63) of one frame's generator; a hash, so that adjacent seeds and frames are independent."""
    digest = hashlib.sha256(f"{int(seed)}/{kind}/{int(frame)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
