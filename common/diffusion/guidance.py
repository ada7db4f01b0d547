"""Classifier-free guidance, with a positive and a negative prompt."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """The parameters of guidance.

    Attributes:
        scale: the guidance scale; with 1 there is no guidance, and the negative pass is not run.
        rescale: in [0, 1], how far the standard deviation of the guided prediction is moved to the positive one's.
        partial: in [0, 1], the fraction of steps, from the first on, that use guidance.
    """

    scale: float = 1.0
    rescale: float = 0.0
    partial: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rescale", "partial"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"guidance {name} must be in [0, 1], got {getattr(self, name)}")

    def active(self, index: int, steps: int) -> bool:
        """Whether step `index` (from 0) of `steps` uses guidance, and so needs the negative pass."""
        return self.scale != 1.0 and (index + 1) / steps <= self.partial

    def predict(
        self,
        positive: Callable[[], Tensor],
        negative: Callable[[], Tensor],
        index: int,
        steps: int,
        sample_dim: int | None = 0,
    ) -> Tensor:
        """The prediction of one step. `negative` is called only if the step uses guidance."""
        if not self.active(index, steps):
            return positive()
        return classifier_free_guidance(positive(), negative(), self.scale, self.rescale, sample_dim=sample_dim)


def classifier_free_guidance(
    pos: Tensor, neg: Tensor, scale: float, rescale: float = 0.0, *, sample_dim: int | None = 0
) -> Tensor:
    """neg + scale (pos - neg), optionally rescaled towards the standard deviation of `pos`.

    Args:
        pos, neg: predictions of one shape.
        rescale: r in [0, 1]; the result is multiplied by r std(pos)/std(cfg) + 1 - r (arXiv 2305.08891, section 3.4).
        sample_dim: the dimension of samples; std is computed over all other dimensions. None: the whole tensor is one
            sample, such as [t, h, w, c] of one clip.
    """
    if scale == 1.0:
        return pos  # neg + (pos - neg) without its rounding
    cfg = neg + scale * (pos - neg)
    if rescale == 0.0:
        return cfg
    over = [d for d in range(pos.ndim) if sample_dim is None or d != sample_dim % pos.ndim]
    spread = pos.std(dim=over, keepdim=True) / cfg.std(dim=over, keepdim=True)
    return cfg * (rescale * spread + (1 - rescale))
