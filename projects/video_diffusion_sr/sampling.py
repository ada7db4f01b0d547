"""Combines the preset, the YAML and the request into the sampling settings of a run."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from common.diffusion import Guidance, read_diffusion_settings
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import Request


@dataclass(frozen=True)
class Sampling:
    """The settings of sampling, see `docs/numerics.md`.

    steps: number of sampling steps.
    guidance: its scale, its rescale, and the fraction of the steps that use it.
    condition_noise, channels_read_as_width: see `condition_timestep` (`noise_scale` and the argument of that name).
    resolution_shift: its argument `transform`.
    prediction_type: the network's prediction, see `PredictionType`.
    T: the largest time of the schedule.
    shift: shift of sampling times; values above 1 move them towards noise.
    """

    steps: int = 1
    guidance: Guidance = field(default_factory=Guidance)
    condition_noise: float = 0.0
    channels_read_as_width: bool = False
    resolution_shift: bool = True
    prediction_type: str = "v_lerp"
    T: float = 1000.0
    shift: float = 1.0


def read_sampling(
    config: Mapping[str, Any], preset: Preset, request: Request, changed: Set[str] = frozenset()
) -> Sampling:
    """Read the sampling settings. A value of the request takes precedence, then one that the user changed in the YAML.

    Otherwise steps and guidance are those of the preset, because the released YAML has the values of training. The
    schedule is always that of the YAML.

    Args:
        config: the YAML's section `diffusion`.
        changed: full names of the keys that the user changed in it.
    Raises:
        ValueError: a value is not possible.
    """
    settings = read_diffusion_settings(config)

    def chosen(key: str, flag: Any, of_preset: Any, of_yaml: Any) -> Any:
        return flag if flag is not None else of_yaml if f"diffusion.{key}" in changed else of_preset

    steps = chosen("timesteps.sampling.steps", request.steps, preset.steps, settings.steps)
    scale = chosen("cfg.scale", request.cfg_scale, preset.cfg_scale, settings.guidance.scale)
    rescale = chosen("cfg.rescale", None, preset.cfg_rescale, settings.guidance.rescale)
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: there must be at least one (--sample_steps)")
    if not isfinite(scale) or scale < 0:
        raise ValueError(f"a guidance scale of {scale:g} is not possible (--cfg_scale); 1 is no guidance")
    return Sampling(
        steps=steps,
        guidance=Guidance(scale, rescale, settings.guidance.partial),
        condition_noise=preset.condition_noise,
        channels_read_as_width=preset.channels_read_as_width,
        resolution_shift=settings.transform,
        prediction_type=settings.prediction_type,
        T=settings.schedule.T,
        shift=settings.shift,
    )
