"""The prediction types of diffusion networks."""

from enum import StrEnum


class PredictionType(StrEnum):
    """The meaning of a network's output at x_t = A x_0 + B x_T; the released models predict `V_LERP`."""

    X_0 = "x_0"  # the clean sample
    X_T = "x_T"  # the noise
    V_COS = "v_cos"  # A x_T - B x_0, the velocity of a variance-preserving schedule
    V_LERP = "v_lerp"  # x_T - x_0, the velocity of the straight line


def as_prediction_type(name: str | PredictionType) -> PredictionType:
    """Convert a name to a prediction type; ValueError, with the choices, for an unknown name."""
    try:
        return PredictionType(name)
    except ValueError:
        choices = ", ".join(PredictionType)
        raise ValueError(f"unknown prediction type {name!r}; choose one of {choices}") from None
