"""How a preset is sampled: from the preset, the YAML and the request to one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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


def read_sampling(config: Mapping[str, Any], preset: Preset, request: Request) -> Sampling:
    """The preset's way of sampling with the request's changes, on the schedule of the YAML."""
    settings = read_diffusion_settings(config)
    scale = preset.cfg_scale if request.cfg_scale is None else request.cfg_scale
    return Sampling(
        steps=preset.steps if request.steps is None else request.steps,
        guidance=Guidance(scale, preset.cfg_rescale, settings.guidance.partial),
        condition_noise=preset.condition_noise,
        channels_read_as_width=preset.channels_read_as_width,
        resolution_shift=settings.transform,
        prediction_type=settings.prediction_type,
        T=settings.schedule.T,
        shift=settings.shift,
    )
