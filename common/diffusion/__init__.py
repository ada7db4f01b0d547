"""The parts of diffusion: schedule, timesteps, guidance, Euler sampler, training targets and losses, settings."""

from common.diffusion.euler import EulerSampler
from common.diffusion.guidance import Guidance, classifier_free_guidance
from common.diffusion.losses import diffusion_loss, velocity_target
from common.diffusion.schedule import LinearInterpolation
from common.diffusion.settings import DiffusionSettings, read_diffusion_settings
from common.diffusion.timesteps import LogitNormal, condition_timestep, resolution_shift, uniform_trailing
from common.diffusion.types import PredictionType

__all__ = [
    "DiffusionSettings",
    "EulerSampler",
    "Guidance",
    "LinearInterpolation",
    "LogitNormal",
    "PredictionType",
    "classifier_free_guidance",
    "condition_timestep",
    "diffusion_loss",
    "read_diffusion_settings",
    "resolution_shift",
    "uniform_trailing",
    "velocity_target",
]
