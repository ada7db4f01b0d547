"""The `diffusion` section of the configurations: every key is read, unknown ones are refused."""

import copy

import pytest
from omegaconf import OmegaConf

from common.config import load_config
from common.diffusion import Guidance, LinearInterpolation, LogitNormal
from common.diffusion.settings import read_diffusion_settings
from tests.conftest import ROOT

RELEASED = OmegaConf.to_container(load_config(ROOT / "configs_3b" / "main.yaml").diffusion)


def leaves(node, path=()):
    """(path, value) of everything in a nested dictionary that is not one."""
    for key, value in node.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


def changed(path, value):
    """The released section with one value replaced, or the key added."""
    config = copy.deepcopy(RELEASED)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


@pytest.mark.parametrize("generation", ["3b", "7b"])
def test_the_released_values(generation):
    settings = read_diffusion_settings(load_config(ROOT / f"configs_{generation}" / "main.yaml").diffusion)
    assert settings.schedule == LinearInterpolation(1000.0) and settings.training == LogitNormal(1000.0, 0.0, 1.0)
    assert settings.guidance == Guidance(7.5, 0.0, 1.0) and settings.transform is True
    assert settings.prediction_type == settings.loss == "v_lerp"
    assert settings.steps == 50 and settings.shift == 1.0


@pytest.mark.parametrize(("path", "value"), list(leaves(RELEASED)), ids=str)
def test_every_key_has_an_effect(path, value):
    other = not value if isinstance(value, bool) else value + 0.5 if isinstance(value, float) else "x_0"
    other = value + 1 if type(value) is int else 0.25 if path[-1] == "partial" else other
    try:
        assert read_diffusion_settings(changed(path, other)) != read_diffusion_settings(RELEASED)
    except ValueError as error:
        assert path[-1] == "type" and f"diffusion.{'.'.join(path)} must be " in str(error)


@pytest.mark.parametrize("group", [(), ("schedule",), ("timesteps",), ("timesteps", "sampling"), ("cfg",), ("loss",)])
def test_unknown_and_missing_keys_are_named(group):
    with pytest.raises(ValueError, match=rf"unknown key {'.'.join(['diffusion', *group])}\.extra"):
        read_diffusion_settings(changed((*group, "extra"), 1))
    node = config = copy.deepcopy(RELEASED)
    for key in group:
        node = node[key]
    name = next(iter(node))
    del node[name]
    with pytest.raises(ValueError, match=rf"{'.'.join(['diffusion', *group])} lacks the keys {name}"):
        read_diffusion_settings(config)
