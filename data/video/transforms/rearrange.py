"""An einops pattern as a transform, for chains of transforms in a config."""

from einops import rearrange
from torch import Tensor


class Rearrange:
    """Reorder the axes of a tensor: `Rearrange("t c h w -> c t h w")(clip)`.

    Args:
        pattern: an einops pattern.
        lengths: sizes of axes that the pattern splits, by name.
    """

    def __init__(self, pattern: str, **lengths: int) -> None:
        self.pattern = pattern
        self.lengths = lengths

    def __call__(self, x: Tensor) -> Tensor:
        """Rearrange a tensor of any dtype. einops raises EinopsError if its shape does not fit the pattern."""
        return rearrange(x, self.pattern, **self.lengths)
