"""The noise schedule: mixes a sample and noise at time t, and converts a network's output to both.

Times are continuous in [0, T], T = 1000.0. x_0 is the clean sample, x_T standard normal noise of the same shape.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.types import PredictionType, as_prediction_type


@dataclass(frozen=True)
class LinearInterpolation:
    """The straight line x_t = A x_0 + B x_T with A = 1 - t/T and B = t/T (rectified flow).

    All methods take samples of any shape, and `t` as a number, a scalar tensor or [B], where B is the samples' first
    dimension. Results are float32 (float64 for float64 samples), because half precision would lose small steps.
    """

    T: float = 1000.0

    def __post_init__(self) -> None:
        if not self.T > 0:
            raise ValueError(f"the schedule's last time T must be positive, got {self.T}")

    def A(self, t: Tensor) -> Tensor:
        """The coefficient of x_0 at time t, in [0, 1]."""
        return 1 - t / self.T

    def B(self, t: Tensor) -> Tensor:
        """The coefficient of x_T at time t, in [0, 1]."""
        return t / self.T

    def forward(self, x_0: Tensor, x_T: Tensor, t: Tensor | float) -> Tensor:
        """The noisy sample x_t at time t, with the shape of x_0."""
        x_0, x_T = at_least_float32(x_0), at_least_float32(x_T)
        t = match_samples(t, x_0)
        return self.A(t) * x_0 + self.B(t) * x_T

    def convert_from_pred(
        self, pred: Tensor, pred_type: str | PredictionType, x_t: Tensor, t: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Convert a prediction at time t to (x_0, x_T).

        Args:
            pred: the network's output, with the shape of x_t.
            pred_type: the type of the output, see `PredictionType`.
            x_t: the network's input, the noisy sample.

        Raises:
            ZeroDivisionError: x_T is predicted at t = T, or x_0 at t = 0; the other one is then undetermined.
        """
        kind = as_prediction_type(pred_type)
        pred, x_t = at_least_float32(pred), at_least_float32(x_t)
        t = match_samples(t, x_t)
        A, B = self.A(t), self.B(t)
        if kind is PredictionType.X_T:
            refuse_zero(A, "x_0 cannot be found from a prediction of x_T at t = T: there x_t holds nothing of x_0")
            return (x_t - B * pred) / A, pred
        if kind is PredictionType.X_0:
            refuse_zero(B, "x_T cannot be found from a prediction of x_0 at t = 0: there x_t holds nothing of x_T")
            return pred, (x_t - A * pred) / B
        if kind is PredictionType.V_COS:
            # This formula is exact only if A^2 + B^2 = 1. For this schedule it is not; it is kept for comparisons.
            return A * x_t - B * pred, A * pred + B * x_t
        return x_t - B * pred, x_t + A * pred  # v_lerp; the common divisor A + B is 1 on this line

    def convert_to_pred(self, x_0: Tensor, x_T: Tensor, t: Tensor | float, pred_type: str | PredictionType) -> Tensor:
        """The training target at time t, which an exact network would return; with the shape of x_0."""
        kind = as_prediction_type(pred_type)
        x_0, x_T = at_least_float32(x_0), at_least_float32(x_T)
        if kind is PredictionType.X_0:
            return x_0
        if kind is PredictionType.X_T:
            return x_T
        if kind is PredictionType.V_LERP:
            return x_T - x_0
        t = match_samples(t, x_0)
        return self.A(t) * x_T - self.B(t) * x_0


def at_least_float32(x: Tensor) -> Tensor:
    """Convert x to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def match_samples(t: Tensor | float, x: Tensor) -> Tensor:
    """Convert `t` to x's dtype and device, and reshape [B] to [B, 1, ...], so that it multiplies each sample of x."""
    if not isinstance(t, Tensor):
        return torch.tensor(t, dtype=x.dtype, device=x.device)
    t = t.to(x)
    if t.ndim == 0:
        return t
    if t.ndim != 1 or t.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"t has shape {tuple(t.shape)} and the samples {tuple(x.shape)}; "
            "give one time, or one for every entry of the first dimension"
        )
    return t.reshape(-1, *[1] * (x.ndim - 1))


def refuse_zero(divisor: Tensor, reason: str) -> None:
    """Raise ZeroDivisionError with the reason if any entry of the divisor is zero."""
    if bool((divisor == 0).any()):
        raise ZeroDivisionError(reason)
