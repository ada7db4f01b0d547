"""What a diffusion network is trained towards."""

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
    """Mean squared error between a prediction at time t and its target, one float32 mean per sample: [B].

    Args:
        prediction, x_0, x_T: [B, ...], x_T the noise that was mixed in. For packed tokens [L, C] every token counts as
            a sample: average over each clip's own tokens before mixing clips.
        t: times in [0, T], one or [B].
        target: what the network predicts (`diffusion.loss`).
    """
    wanted = schedule.convert_to_pred(x_0, x_T, t, target)
    return (at_least_float32(prediction) - wanted).square().flatten(1).mean(1)
