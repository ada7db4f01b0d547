"""The networks of a preset for a benchmark: real weights, or random ones of the real shapes made on the device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config import create_object, load_config
from models.video_vae_v3.modules.fold import prepare_inference
from projects.video_diffusion_sr.presets import Preset


@torch.inference_mode(False)
def build_networks(
    preset: Preset, device: torch.device, dtype: torch.dtype, *, random_weights: bool, plain: bool, ckpt_dir: Path
) -> tuple[nn.Module, nn.Module, Mapping[str, Any]]:
    """(vae, dit, config), both networks on the device, ready for inference.

    Args:
        random_weights: no checkpoint is read.
        plain: leave the VAE on its plain path.
    """
    config = load_config(preset.config)
    if random_weights:
        dit = random_network(config.dit.model, device, dtype)
        vae = random_network(config.vae.model, device, torch.float32)
    else:
        from projects.video_diffusion_sr.build import build_network, checkpoint_paths

        paths = checkpoint_paths(preset, ckpt_dir, config)
        dit = build_network(config.dit.model, paths[0], device, dtype)
        vae = build_network(config.vae.model, paths[1], device, torch.float32)
    vae.set_causal_slicing(config.vae.slicing.split_size)
    if not plain:
        prepare_inference(vae)
    return vae.to(dtype), dit, config


@torch.no_grad()
def random_network(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """A network with seeded random weights that keep activations near one, in evaluation mode, without gradients."""
    with torch.device("meta"):
        network = create_object(config)
    network.to_empty(device=device).to(dtype)
    if hasattr(network, "reset_buffers"):
        network.reset_buffers(device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(float(name.endswith("weight") or name.endswith("_scale")), 0.1, generator=generator)
    return network.eval().requires_grad_(False)
