"""Counts the floating point operations of the VAE in inference, by running the network on the meta device."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.config import create_object
from data.video.framing import latent_frames
from models.video_vae_v3.modules.fold import prepare_inference
from projects.video_diffusion_sr.flops import counted_flops


def sliced_vae_flops(config: Mapping[str, Any], frames: int, height: int, width: int) -> dict[str, float]:
    """Count the operations of encoding and of decoding a clip in slices: {"encode": ..., "decode": ...}.

    The first frame is processed separately, upsamplers are folded, and convolutions are direct.

    Args:
        config: the section `vae.model` of a model's YAML.
        frames: number of frames of the clip, 4n + 1.
        height, width: size of its pictures in pixels.
    """
    with torch.device("meta"):
        vae = create_object(config).eval().requires_grad_(False)
    prepare_inference(vae, winograd=())
    factor, scale = vae.temporal_factor, vae.spatial_factor
    later = latent_frames(frames, factor) - 1
    inputs: dict[str, tuple[Callable[..., Tensor], Callable[[int], tuple[int, ...]], int]] = {
        "encode": (vae.encode_slice, lambda n: (1, 3, n, height, width), factor),
        "decode": (vae.decode_slice, lambda n: (1, vae.latent_channels, n, height // scale, width // scale), 1),
    }
    counts = {}
    for name, (run, shape, step) in inputs.items():
        memory = vae.new_memory()
        first, next_one = (counted_flops(partial(run, torch.empty(shape(n), device="meta"), memory)) for n in (1, step))
        counts[name] = first + later * next_one
    return counts
