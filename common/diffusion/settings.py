"""The `diffusion` section of a configuration, typed and frozen; unknown keys are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.diffusion.guidance import Guidance
from common.diffusion.schedule import LinearInterpolation
from common.diffusion.timesteps import LogitNormal
from common.diffusion.types import PredictionType, as_prediction_type
from common.strict_settings import settings_from
from common.typed_values import number, positive, whole_number


@dataclass(frozen=True)
class DiffusionSettings:
    """The diffusion settings of a YAML, from `read_diffusion_settings`.

    Attributes:
        schedule: mixes samples and noise (`schedule`).
        prediction_type: the prediction type that the sampler assumes (`sampler.prediction_type`).
        loss: the prediction type in training (`loss.type`).
        training: draws training times (`timesteps.training`).
        steps, shift: number of sampling steps and shift of their times, unless the preset overrides them
            (`timesteps.sampling`).
        transform: whether training times and the condition noise are shifted according to the resolution.
        guidance: guidance in sampling, unless the preset overrides it (`cfg`).
    """

    schedule: LinearInterpolation
    prediction_type: PredictionType
    loss: PredictionType
    training: LogitNormal
    steps: int
    shift: float
    transform: bool
    guidance: Guidance


@dataclass(frozen=True)
class ScheduleSection:
    """T: the last time."""

    type: Literal["lerp"]
    T: float


@dataclass(frozen=True)
class SamplerSection:
    """prediction_type: what the network predicts."""

    type: Literal["euler"]
    prediction_type: str


@dataclass(frozen=True)
class TrainingTimesSection:
    """loc, scale: mean and standard deviation of the logits of training times."""

    type: Literal["logitnormal"]
    loc: float
    scale: float


@dataclass(frozen=True)
class SamplingTimesSection:
    """steps: number of sampling steps. shift: values above 1 move their times towards noise."""

    type: Literal["uniform_trailing"]
    steps: int
    shift: float = 1.0


@dataclass(frozen=True)
class TimestepsSection:
    """transform: shift training times and the condition noise according to the resolution."""

    training: TrainingTimesSection
    sampling: SamplingTimesSection
    transform: bool


@dataclass(frozen=True)
class LossSection:
    """type: what the network is trained to predict."""

    type: str


@dataclass(frozen=True)
class GuidanceSection:
    """See `Guidance`."""

    scale: float
    rescale: float
    partial: float = 1.0


@dataclass(frozen=True)
class DiffusionSection:
    """The `diffusion` section with the keys of the YAML."""

    schedule: ScheduleSection
    sampler: SamplerSection
    timesteps: TimestepsSection
    loss: LossSection
    cfg: GuidanceSection


def read_diffusion_settings(config: Mapping[str, Any]) -> DiffusionSettings:
    """Read the settings from a configuration's `diffusion` mapping.

    Raises:
        ValueError: a key or a type is unknown, or a key is missing; the message has its full name.
    """
    section = settings_from(DiffusionSection, config, "diffusion.")
    training, sampling, cfg = section.timesteps.training, section.timesteps.sampling, section.cfg
    T = positive(section.schedule.T, "diffusion.schedule.T")
    return DiffusionSettings(
        schedule=LinearInterpolation(T),
        prediction_type=as_prediction_type(section.sampler.prediction_type),
        loss=as_prediction_type(section.loss.type),
        training=LogitNormal(
            T, *(number(getattr(training, key), f"diffusion.timesteps.training.{key}") for key in ("loc", "scale"))
        ),
        steps=whole_number(sampling.steps, "diffusion.timesteps.sampling.steps"),
        shift=positive(sampling.shift, "diffusion.timesteps.sampling.shift"),
        transform=section.timesteps.transform,
        guidance=Guidance(
            *(number(getattr(cfg, key), f"diffusion.cfg.{key}") for key in ("scale", "rescale", "partial"))
        ),
    )
