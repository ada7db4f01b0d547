"""Which part of the picture has sides that divide evenly? The centre crop of the reference pipeline.

It loses rows (1080 becomes 1072) and shifts the picture by half of what it cuts;
`data.video.framing.pad_to_multiple` keeps all pixels.
"""

from torch import Tensor


class DivisibleCrop:
    """Cut the centre out of frames so that both sides are multiples of `factor` pixels.

    Args:
        factor: one number for both sides, or (for the height, for the width).
    """

    def __init__(self, factor: int | tuple[int, int]) -> None:
        self.factor = (factor, factor) if isinstance(factor, int) else (int(factor[0]), int(factor[1]))
        if min(self.factor) < 1:
            raise ValueError(f"DivisibleCrop needs factors of at least 1, got {self.factor}")

    def __call__(self, frames: Tensor) -> Tensor:
        """[..., H, W] -> [..., h, w], any dtype, a view. ValueError when a side is shorter than its factor."""
        height, width = frames.shape[-2:]
        h, w = height - height % self.factor[0], width - width % self.factor[1]
        if h == 0 or w == 0:
            raise ValueError(
                f"a picture of {width}x{height} cannot be cropped to multiples of {self.factor[::-1]}; pad it"
            )
        # An odd margin is split by Python's round-half-to-even, as torchvision's centre crop does.
        top, left = round((height - h) / 2), round((width - w) / 2)
        return frames[..., top : top + h, left : left + w]
