"""A checkpoint folder for networks smaller than the tiny preset's, so that tests of whole runs are quick."""

from pathlib import Path

import torch

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.conftest import ROOT

SMALL = ("dit.model.num_layers=2", "vae.model.block_out_channels=[8,8,16]")


def seeded_weights(folder: Path) -> Path:
    """Random weights, the same at every call, for the tiny preset with the overrides `SMALL`; the folder's path."""
    config = load_config(ROOT / SEEDVR2_TINY.config, SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {"dit": create_object(config.dit.model), "vae": create_object(config.vae.model)}
    for name, network in networks.items():
        save_safetensors(network.state_dict(), folder / "tiny" / f"{name}.safetensors")
    (folder / "tiny" / "prompts.safetensors").write_bytes((ROOT / "ckpts/tiny/prompts.safetensors").read_bytes())
    return folder
