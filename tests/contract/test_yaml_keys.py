"""No key of a model's YAML is dead: training or inference reads it, or hands it to a constructor, which takes it.

That a key which inference reads also changes a run is held by `tests/projects/test_user_config.py`, which has them all.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from common.config import create_object, load_config
from projects.video_diffusion_sr import build, settings
from projects.video_diffusion_sr.presets import SEEDVR2_3B, SEEDVR2_7B, SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from tests.conftest import ROOT

PRESETS = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B, "tiny": SEEDVR2_TINY}


def leaves(node, path: str = "") -> set[str]:
    """Full names of everything that is no mapping."""
    if not isinstance(node, dict):
        return {path}
    return {name for key, value in node.items() for name in leaves(value, f"{path}.{key}" if path else str(key))}


@pytest.fixture
def read(monkeypatch) -> set[str]:
    """Full names of all keys that are read by name from any config, from now on."""
    seen: set[str] = set()
    for method in ("__getattr__", "__getitem__"):
        original = getattr(DictConfig, method)

        def recorded(self, key, original=original):
            if isinstance(key, str) and not key.startswith("_"):
                seen.add(str(self._get_full_key(key)))
            return original(self, key)

        monkeypatch.setattr(DictConfig, method, recorded)
    return seen


def build_without_weights(preset, monkeypatch) -> None:
    """The inference builder with networks that stay on the meta device, so that large presets take no memory."""
    monkeypatch.setattr(build, "load_network", lambda *arguments: None)
    monkeypatch.setattr(build, "prepare_inference", lambda vae, winograd: None)
    monkeypatch.setattr(build, "build_prompts", lambda settings: build.Prompts(torch.zeros(1), torch.zeros(1)))
    monkeypatch.setattr(
        settings, "checkpoint_paths", lambda preset, folder, config: (None, Path(config.vae.checkpoint))
    )
    parallel = SimpleNamespace(
        process=SimpleNamespace(device=torch.device("meta")), size=1, sequence_group=None, group=None
    )
    build.build(preset, Request(res=(64, 64)), parallel)


@pytest.mark.parametrize("name", PRESETS)
def test_every_key_is_read(name, read, monkeypatch):
    config = load_config(ROOT / PRESETS[name].config)
    keys = {key for key in leaves(OmegaConf.to_container(config)) if "__object__" not in key}
    trainer = create_object(config)
    with torch.device("meta"):
        trainer.build_dit()
        trainer.encoder(trainer.build_untrained_vae())
    trainer.conditioner()
    build_without_weights(PRESETS[name], monkeypatch)
    assert sorted(keys - read) == []


@pytest.mark.parametrize(
    "section", ["dit.model", "vae.model", "condition", "diffusion", "diffusion.timesteps.training"]
)
def test_a_key_that_nothing_knows_is_refused(section):
    config = load_config(ROOT / "configs_tiny/main.yaml")
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, f"{section}.nonsense", 1)
    with pytest.raises((ValueError, TypeError), match="nonsense"), torch.device("meta"):
        create_object(config).build_dit()
