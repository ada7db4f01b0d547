"""How a run samples: from the preset, the YAML and the request to one value."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from common.diffusion import Guidance, read_diffusion_settings
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import Request


@dataclass(frozen=True)
class Sampling:
    """How to get from noise to a clip, see `docs/numerics.md`.

    steps: network calls. guidance: scale, rescale and the guided share of the steps.
    condition_noise, channels_read_as_width, resolution_shift: see `condition_timestep`.
    prediction_type, T, shift: of the schedule that the network was trained with.
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
    """The request's way of sampling, else what the user changed in the YAML, else the preset's; on the YAML's schedule.

    Args:
        config: the YAML's `diffusion` section. Its released values of what presets say are those of training.
        changed: full names of the keys that the user changed in it.
    Raises:
        ValueError: a value that makes no sense.
    """
    settings = read_diffusion_settings(config)

    def chosen(key: str, flag: Any, of_preset: Any, of_yaml: Any) -> Any:
        return flag if flag is not None else of_yaml if f"diffusion.{key}" in changed else of_preset

    steps = chosen("timesteps.sampling.steps", request.steps, preset.steps, settings.steps)
    scale = chosen("cfg.scale", request.cfg_scale, preset.cfg_scale, settings.guidance.scale)
    rescale = chosen("cfg.rescale", None, preset.cfg_rescale, settings.guidance.rescale)
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: there must be at least one (--sample_steps)")
    if not isfinite(scale):
        raise ValueError(f"a guidance scale of {scale} is not possible (--cfg_scale); 1 is no guidance")
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
