"""Refuses YAML keys that would have no effect with the other settings of a run."""

from collections.abc import Sequence, Set
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from common.config import load_config, override_names
from projects.video_diffusion_sr.bare_network import alike, network_without_weights
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.sampling import Sampling

MODELS = ("dit.model", "vae.model")  # sections whose keys are arguments of a constructor, which refuses unknown ones


def refuse_idle_model_keys(source: str | Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ValueError for an override of a network's key that it does not accept, or that does not change it.

    An override with the value that the key already has is allowed.
    """
    for i, override in enumerate(overrides):
        names = [(name, model) for name in override_names(override) for model in MODELS if name.startswith(f"{model}.")]
        for name, model in names:
            try:
                without = load_config(source, [*overrides[:i], *overrides[i + 1 :]])
                other = network_without_weights(OmegaConf.select(without, model))
            except ValueError:  # without this override the others are invalid, so it has an effect
                continue
            value, before = OmegaConf.select(config, name), OmegaConf.select(without, name)
            if value == before:
                continue
            try:
                network = network_without_weights(OmegaConf.select(config, model))
            except ValueError as error:
                raise ValueError(f"config key {name}: {value!r} in place of {before!r}: {error}") from error
            if alike(network, other):
                raise ValueError(
                    f"config key {name}: {value!r} in place of {before!r} changes nothing in the network; leave it out"
                )


def refuse_idle_memory_keys(config: DictConfig, changed: Set[str], device: torch.device) -> None:
    """Raise ValueError for a changed key of the `vae` section that has no effect on the VAE's memory on this device."""
    where = config.slicing.memory_device
    try:
        same = where != "same" and torch.device(where).type == device.type
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"config key vae.slicing.memory_device: {where!r} is neither `same` nor a device") from error
    if same and "vae.slicing.memory_device" in changed:
        raise ValueError(
            f"config key vae.slicing.memory_device: {where} is where the VAE computes, so it changes nothing; use same"
        )
    limits = {f"vae.memory_limit.{name}": gib for name, gib in config.memory_limit.items()}
    for name in sorted(changed & limits.keys()):
        if device.type == "cuda":
            raise ValueError(f"config key {name} is not read on a GPU, where plans bound the memory: use --vram")
        tightest = min((gib for gib in limits.values() if gib is not None), default=None)
        if limits[name] != tightest:
            raise ValueError(
                f"config key {name} changes nothing: the smaller of conv_max_mem and norm_max_mem holds for both, and "
                f"that is {tightest} GiB; change both, or leave this one out"
            )


def refuse_idle_sampling_keys(sampling: Sampling, changed: Set[str], preset: Preset) -> None:
    """Raise ValueError for a changed key of the `diffusion` section that this kind of sampling does not use."""
    guidance, alone = sampling.guidance, "changes nothing without guidance: set diffusion.cfg.scale or --cfg_scale, too"
    one_step = "changes nothing with one step: set diffusion.timesteps.sampling.steps or --sample_steps, too"
    unnoised = f"changes nothing: it moves the condition's noise, and {preset.name} has none"
    idle = {
        "diffusion.cfg.rescale": (guidance.scale == 1.0 and guidance.rescale != 0.0, alone),
        "diffusion.cfg.partial": (guidance.scale == 1.0 and guidance.partial != 1.0, alone),
        "diffusion.timesteps.sampling.shift": (sampling.steps == 1 and sampling.shift != 1.0, one_step),
        "diffusion.timesteps.transform": (sampling.condition_noise == 0 and not sampling.resolution_shift, unnoised),
    }
    for name, (is_idle, why) in idle.items():
        if is_idle and name in changed:
            raise ValueError(f"config key {name} {why}")
