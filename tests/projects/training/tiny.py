"""A recipe of the tiny preset made smaller still, with a seeded VAE, for tests of stages."""

from functools import cache
from pathlib import Path

import torch

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from tests.conftest import ROOT, seed_weights

MODEL = [
    "dit.model.num_layers=4",
    "dit.model.vid_dim=24",
    "dit.model.txt_in_dim=24",
    "dit.model.heads=2",
    "dit.model.head_dim=12",
    "dit.model.rope_dim=12",
    "vae.model.block_out_channels=[8,8,8]",
    "vae.model.norm_num_groups=4",
    "vae.model.temporal_scale_num=1",
    "vae.model.temporal_downsample_factor=2",
    "vae.model.spatial_downsample_factor=4",
    "vae.model.down_block_types=null",
    "vae.model.up_block_types=null",
    "vae.use_sample=True",
    "vae.scaling_factor=1.0",
    "diffusion.cfg.scale=1.5",
    "diffusion.timesteps.training.loc=0.0",
    "diffusion.timesteps.training.scale=1.0",
    "diffusion.timesteps.transform=True",
    "condition.sr=1.0",
]


@cache
def seeded_vae(folder: Path) -> Path:
    """Weights for `vae.checkpoint`."""
    vae = seed_weights(create_object(load_config(ROOT / "configs_tiny/main.yaml", MODEL).vae.model))
    save_safetensors(vae.state_dict(), folder / "vae.safetensors")
    return folder / "vae.safetensors"


def make_recipe(folder: Path, *overrides: str):
    """A `VideoDiffusionTrainer`."""
    changes = [*MODEL, f"vae.checkpoint={seeded_vae(folder)}", *overrides]
    return create_object(load_config(ROOT / "configs_tiny/main.yaml", changes))


def moments(sizes: list[tuple[int, int, int]], seed: int = 0, channels: int = 16) -> list[dict]:
    """Samples with stored moments, as `data.training.latent_shards` reads them."""
    draws = torch.Generator().manual_seed(seed)
    names = ("hq_mean", "hq_logvar", "lq_mean", "lq_logvar")
    return [
        {name: torch.randn(channels, *size, generator=draws) for name in names} | {"identity": f"clip {i}"}
        for i, size in enumerate(sizes)
    ]
