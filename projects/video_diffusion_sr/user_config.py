"""Reads the YAML of a run, finds the keys that the user changed, and refuses those that inference does not read."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from common.config import find_file, leaves, load_config, override_names, suggestion
from projects.video_diffusion_sr.idle_keys import MODELS, refuse_idle_model_keys
from projects.video_diffusion_sr.presets import PRESETS, Preset
from projects.video_diffusion_sr.request import ROOT, Request

# Keys that only training reads -> what inference uses instead. A key also stands for all keys below it.
TRAINING = {
    "__object__": "inference has one program for all models",
    "dit.compile": "inference runs its own fused kernels and compiles nothing",
    "dit.gradient_checkpoint": "inference has no gradients; --vram bounds its memory",
    "dit.gradient_checkpoint_keeps": "inference has no gradients; --vram bounds its memory",
    "dit.fsdp": "--shard_weights spreads the weights over GPUs in inference",
    "ema": "inference takes the weights of the checkpoint as they are; --checkpoint names another",
    "vae.compile": "inference runs its own fused kernels and compiles nothing",
    "vae.grouping": "inference encodes one clip at a time",
    "vae.model.freeze_encoder": "inference changes no weights",
    "diffusion.timesteps.training": "inference visits the times of diffusion.timesteps.sampling",
    "diffusion.loss": "inference reads the network's output as diffusion.sampler.prediction_type says",
    "condition": "in inference the preset says how much noise the condition gets",
}
# Keys that users may expect but no YAML has -> what to use instead.
ELSEWHERE = {
    "dit.dtype": "both networks compute in one dtype: use --dtype or vae.dtype",
    "dit.checkpoint": "use --checkpoint FILE",
}
OPTIONAL = ("diffusion.timesteps.sampling.shift", "diffusion.cfg.partial")


@dataclass(frozen=True)
class UserConfig:
    """The result of `read_user_config`.

    config: the complete YAML with overrides, resolved.
    changed: full names of the keys that the user set, or whose value in the user's file is not the released one.
    """

    config: DictConfig
    changed: Set[str]


def read_user_config(preset: Preset, request: Request) -> UserConfig:
    """Read the YAML of `request.config`, else the preset's, and apply the request's overrides.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a key does not exist, is only read by training, or changes nothing; the message has its full name.
    """
    source = request.config or ROOT / preset.config
    named = {name for override in request.overrides for name in override_names(override)}
    for name in sorted(named & ELSEWHERE.keys()):
        raise ValueError(f"unknown config key {name}: {ELSEWHERE[name]}")
    config = load_config(source, request.overrides)
    for name in sorted(named):
        refuse_training(name)
    if request.random_weights and "vae.checkpoint" in named:
        raise ValueError("config key vae.checkpoint: --random_weights takes its place; leave one of them out")
    changed = named | (set() if request.config is None else changed_in_file(preset, request.config))
    refuse_idle_model_keys(source, config, request.overrides)
    return UserConfig(config, changed)


def refuse_training(name: str) -> None:
    """Raise ValueError for a key that only training reads."""
    for key, instead in TRAINING.items():
        if f"{name}.".startswith(f"{key}."):
            raise ValueError(f"config key {name} is read by training only: {instead}; leave it out")


def changed_in_file(preset: Preset, source: str) -> set[str]:
    """Full names of the keys whose values in a user's file differ from the preset's YAML; none for a released YAML.

    Raises:
        ValueError: inference does not read a key, or a key is missing; the message names the file.
    """
    if find_file(source, [Path.cwd(), ROOT]) in {(ROOT / known.config).resolve() for known in PRESETS.values()}:
        return set()
    released, given = (leaves(OmegaConf.to_container(load_config(path))) for path in (ROOT / preset.config, source))
    changed = {name for name, value in given.items() if name not in released or released[name] != value}
    for name in sorted(changed):
        if name not in released and not name.startswith((*MODELS, *OPTIONAL)):
            why = f": {ELSEWHERE[name]}" if name in ELSEWHERE else suggestion(name, list(released))
            raise ValueError(f"{source}: unknown config key {name}{why}")
        try:
            refuse_training(name)
        except ValueError as error:
            raise ValueError(
                f"{source}: {error}, or keep it in a YAML of training's own that inherits this one (`__inherit__`)"
            ) from error
    for name in sorted(released.keys() - given.keys()):
        if not name.startswith((*MODELS, *TRAINING, *OPTIONAL)):
            raise ValueError(f"{source}: config key {name} is missing; inherit {preset.config} (`__inherit__`)")
    return changed
