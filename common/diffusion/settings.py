"""The `diffusion` section of a configuration, typed and frozen; unknown keys are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.diffusion.guidance import Guidance
from common.diffusion.schedule import LinearInterpolation
from common.diffusion.timesteps import LogitNormal
from common.diffusion.types import PredictionType, as_prediction_type
from common.typed_values import number, positive, switch, whole_number


@dataclass(frozen=True)
class DiffusionSettings:
    """What `read_diffusion_settings` makes of the YAML.

    Attributes:
        schedule: mixes samples and noise (`schedule`).
        prediction_type: what the network predicts, as the sampler reads it (`sampler.prediction_type`).
        loss: what it is trained to predict (`loss.type`).
        training: draws training times (`timesteps.training`).
        steps, shift: of sampling, where no preset says otherwise (`timesteps.sampling`).
        transform: whether training times and the condition noise are shifted by the resolution.
        guidance: of sampling, where no preset says otherwise (`cfg`).
    """

    schedule: LinearInterpolation
    prediction_type: PredictionType
    loss: PredictionType
    training: LogitNormal
    steps: int
    shift: float
    transform: bool
    guidance: Guidance


def read_diffusion_settings(config: Mapping[str, Any]) -> DiffusionSettings:
    """The settings in a configuration's `diffusion` mapping.

    Raises:
        ValueError: a key or a type that this program does not know, or a key that is missing, by its full name.
    """
    top = only(config, "diffusion", "schedule", "sampler", "timesteps", "loss", "cfg")
    schedule = typed(top["schedule"], "diffusion.schedule", "lerp", "T")
    sampler = typed(top["sampler"], "diffusion.sampler", "euler", "prediction_type")
    times = only(top["timesteps"], "diffusion.timesteps", "training", "sampling", "transform")
    training = typed(times["training"], "diffusion.timesteps.training", "logitnormal", "loc", "scale")
    sampling = typed(times["sampling"], "diffusion.timesteps.sampling", "uniform_trailing", "steps", shift=1.0)
    cfg = only(top["cfg"], "diffusion.cfg", "scale", "rescale", partial=1.0)
    T = positive(schedule["T"], "diffusion.schedule.T")
    return DiffusionSettings(
        schedule=LinearInterpolation(T),
        prediction_type=as_prediction_type(sampler["prediction_type"]),
        loss=as_prediction_type(only(top["loss"], "diffusion.loss", "type")["type"]),
        training=LogitNormal(
            T, *(number(training[key], f"diffusion.timesteps.training.{key}") for key in ("loc", "scale"))
        ),
        steps=whole_number(sampling["steps"], "diffusion.timesteps.sampling.steps"),
        shift=positive(sampling["shift"], "diffusion.timesteps.sampling.shift"),
        transform=switch(times["transform"], "diffusion.timesteps.transform"),
        guidance=Guidance(*(number(cfg[key], f"diffusion.cfg.{key}") for key in ("scale", "rescale", "partial"))),
    )


def only(config: Any, where: str, *required: str, **optional: Any) -> dict[str, Any]:
    """The mapping with exactly these keys, optional ones filled in; ValueError names what is too much or missing."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config key {where} must be a group of {', '.join([*required, *optional])}")
    if unknown := [str(key) for key in config if key not in (*required, *optional)]:
        raise ValueError(f"unknown config key {where}.{unknown[0]}; known here: {', '.join([*required, *optional])}")
    if missing := [key for key in required if key not in config]:
        raise ValueError(f"config key {where}.{missing[0]} is missing")
    return {**optional, **config}


def typed(config: Any, where: str, kind: str, *required: str, **optional: Any) -> dict[str, Any]:
    """`only`, for a mapping with a `type` of which this program has one."""
    values = only(config, where, "type", *required, **optional)
    if values["type"] != kind:
        raise ValueError(f"config key {where}.type is {values['type']!r}; this program has {kind}")
    return values
