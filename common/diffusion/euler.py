"""The Euler sampler: integrates from noise to a sample, with one network call per timestep."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from common.diffusion.schedule import LinearInterpolation, at_least_float32
from common.diffusion.types import PredictionType
from common.kernels.transfer import to_device


@dataclass(frozen=True)
class EulerSampler:
    """Steps through `timesteps`. In each step the predicted x_0 and x_T are mixed for the next time.

    Attributes:
        schedule: mixes x_0 and x_T.
        timesteps: float32 [steps], decreasing from T, see `uniform_trailing`.
        prediction_type: the type of what `predict` returns.
    """

    schedule: LinearInterpolation
    timesteps: Tensor
    prediction_type: PredictionType | str = PredictionType.V_LERP

    def __post_init__(self) -> None:
        falling = bool((self.timesteps.diff() < 0).all())
        if self.timesteps.ndim != 1 or self.timesteps.shape[0] == 0 or not falling:
            raise ValueError(f"sampling timesteps must be one falling row of times, got {self.timesteps.tolist()}")

    @property
    def steps(self) -> int:
        """The number of network calls."""
        return self.timesteps.shape[0]

    def sample(self, x: Tensor, predict: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
        """Integrate from the noise x to a sample.

        Args:
            x: x_T, standard normal noise of any shape.
            predict: a function (x_t float32, t float32 scalar tensor on x's device, step index from 0) -> prediction,
                with the shape of x.

        Returns:
            x_0, float32 (float64 for float64 noise), with the shape of x: the x_0 of the last prediction. With a single
            step from t = T, it is x minus the velocity.
        """
        x = at_least_float32(x)
        timesteps = to_device(self.timesteps, x.device)
        for i in range(self.steps):
            t = timesteps[i]
            x_0, x_T = self.schedule.convert_from_pred(predict(x, t, i), self.prediction_type, x, t)
            if i + 1 < self.steps:
                x = self.schedule.forward(x_0, x_T, timesteps[i + 1])
        return x_0
