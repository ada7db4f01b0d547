"""The training target and the loss of a diffusion network."""

from torch import Tensor

from common.diffusion.schedule import LinearInterpolation, at_least_float32
from common.diffusion.types import PredictionType


def velocity_target(x_0: Tensor, x_T: Tensor) -> Tensor:
    """v = x_T - x_0, the target of flow matching on the straight line; float32, shape of x_0."""
    return at_least_float32(x_T) - at_least_float32(x_0)


def diffusion_loss(
    prediction: Tensor,
    x_0: Tensor,
    x_T: Tensor,
    t: Tensor | float,
    *,
    schedule: LinearInterpolation,
    target: str | PredictionType = PredictionType.V_LERP,
) -> Tensor:
    """The mean squared error of a prediction at time t, as one float32 mean per sample: [B].

    Args:
        prediction, x_0, x_T: [B, ...]; x_T is the noise. Of packed tokens [L, C] every token counts as a sample, so
            average over the tokens of each clip before averaging over clips.
        t: times in [0, T], a single one or [B].
        target: the prediction type (`diffusion.loss`).
    """
    wanted = schedule.convert_to_pred(x_0, x_T, t, target)
    return (at_least_float32(prediction) - wanted).square().flatten(1).mean(1)
