"""Floating-point operations that a stage must do, counted from the networks themselves on shapes alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.config import create_object
from models.video_vae_v3.modules.fold import prepare_inference

TEXT_TOKENS = 58  # of the released positive prompt


def meta_network(config: Mapping[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return create_object(config).eval().requires_grad_(False)


@torch.no_grad()
def vae_flops(config: Mapping[str, Any], frames: int, height: int, width: int) -> dict[str, float]:
    """{"encode", "decode"}: operations of the fast path (folded upsamplers, first frame alone) for a clip 4n + 1."""
    vae = meta_network(config)
    prepare_inference(vae)
    factor, scale = vae.temporal_factor, vae.spatial_factor
    rest = (frames - 1) // factor
    inputs = {
        "encode": (vae.encode_slice, lambda n: (1, 3, n, height, width), factor),
        "decode": (vae.decode_slice, lambda n: (1, vae.latent_channels, n, height // scale, width // scale), 1),
    }
    counts = {}
    for name, (run, shape, step) in inputs.items():
        memory, flops = vae.new_memory(), []
        for n in (1, step):
            with FlopCounterMode(display=False) as counter:
                run(torch.empty(shape(n), device="meta"), memory)
            flops.append(counter.get_total_flops())
        counts[name] = float(flops[0] + rest * flops[1])
    return counts


@torch.no_grad()
def dit_flops(config: Mapping[str, Any], latent: tuple[int, int, int], text_tokens: int = TEXT_TOKENS) -> float:
    """Operations of one call of the transformer: linear layers and attention within windows."""
    dit = meta_network(config)
    layout = dit.layout([latent], [text_tokens], "meta")
    tokens = latent[0] * latent[1] * latent[2]
    width = config.txt_in_dim
    with FlopCounterMode(display=False) as counter:
        dit(
            torch.empty(tokens, config.vid_in_channels, device="meta"),
            torch.empty(text_tokens, width, device="meta"),
            [latent],
            [[text_tokens]],
            torch.zeros(1, device="meta"),
            layout=layout,
        )
    return float(counter.get_total_flops())
