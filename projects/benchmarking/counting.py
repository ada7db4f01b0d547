"""Floating-point operations that a stage must do, counted from the networks themselves on shapes alone."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.config import create_object
from models.video_vae_v3.modules.fold import prepare_inference

aten = torch.ops.aten

TEXT_TOKENS = 58  # of the released positive prompt


def convolution_flops(x, weight, _bias, stride, _padding, _dilation, transposed, *_, out_shape=None, **__) -> int:
    """Of the output alone: a transposed convolution's products with frames that are carried in only count once."""
    taps = prod(weight[2:])
    if transposed:
        taps = taps / prod(stride)  # that meet one output
    inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    return int(2 * x[0] * prod(out_shape[2:]) * taps * inner * outer)


def counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={aten.convolution: convolution_flops})


def meta_network(config: Mapping[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return create_object(config).eval().requires_grad_(False)


@torch.no_grad()
def vae_flops(config: Mapping[str, Any], frames: int, height: int, width: int) -> dict[str, float]:
    """{"encode", "decode"}: operations for a clip of 4n + 1 frames; first frame alone, folded upsamplers, direct."""
    vae = meta_network(config)
    prepare_inference(vae, winograd=())
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
            with counter() as flops_of:
                run(torch.empty(shape(n), device="meta"), memory)
            flops.append(flops_of.get_total_flops())
        counts[name] = float(flops[0] + rest * flops[1])
    return counts


@torch.no_grad()
def dit_flops(config: Mapping[str, Any], latent: tuple[int, int, int], text_tokens: int = TEXT_TOKENS) -> float:
    """Operations of one call of the transformer: linear layers and attention within windows."""
    dit = meta_network(config)
    layout = dit.layout([latent], [text_tokens], "meta")
    tokens = latent[0] * latent[1] * latent[2]
    width = config.txt_in_dim
    with counter() as flops_of:
        dit(
            torch.empty(tokens, config.vid_in_channels, device="meta"),
            torch.empty(text_tokens, width, device="meta"),
            [latent],
            [[text_tokens]],
            torch.zeros(1, device="meta"),
            layout=layout,
        )
    return float(flops_of.get_total_flops())
