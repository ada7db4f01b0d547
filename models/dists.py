"""DISTS (arXiv 2004.07728): the distance of two pictures in structure and texture. The user provides its weights."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vgg import VGGDistance

TAP_WIDTHS = (3, 64, 128, 256, 512, 512)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # VGG-16's normalisation of pictures in [0, 1]
STABLE = 1e-6


class L2Pool(nn.Module):
    """Halves a picture without aliasing: the square root of the squares, averaged with a Hann window of three taps."""

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)  # numpy's hanning(5) without its zeros
        window = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


class StructureTextureDistance(VGGDistance):
    """The network of DISTS, frozen, with the names of torchvision's VGG-16 (`features.N.*`), `alpha` and `beta`.

    `alpha` and `beta` are [1, 1475, 1, 1], as in the published weights.
    """

    name = "DISTS"

    def __init__(self) -> None:
        super().__init__(L2Pool, MEAN, STD)
        self.alpha, self.beta = (nn.Parameter(torch.full((1, sum(TAP_WIDTHS), 1, 1), 0.1)) for _ in range(2))
        self.requires_grad_(False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "StructureTextureDistance":
        """Build the network with weights, see `VGGDistance.load`."""
        return cls().load(state)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of pictures [N, 3, H, W] in [-1, 1], at least 16 pixels a side: float32 [N], 0 if equal."""
        total = self.alpha.sum() + self.beta.sum()
        likeness = a.new_zeros(len(a), dtype=torch.float32)
        taps = zip(self._taps((a + 1) / 2), self._taps((b + 1) / 2), strict=True)
        weights = zip(self.alpha.flatten().split(TAP_WIDTHS), self.beta.flatten().split(TAP_WIDTHS), strict=True)
        for (x, y), (alpha, beta) in zip(taps, weights, strict=True):
            x, y = x.float().flatten(2), y.float().flatten(2)  # N C positions
            mean_x, mean_y = x.mean(2), y.mean(2)
            texture = (2 * mean_x * mean_y + STABLE) / (mean_x.square() + mean_y.square() + STABLE)
            var_x, var_y = x.var(2, correction=0), y.var(2, correction=0)
            covariance = (x * y).mean(2) - mean_x * mean_y
            structure = (2 * covariance + STABLE) / (var_x + var_y + STABLE)
            likeness = likeness + (alpha * texture + beta * structure).sum(1) / total
        return 1 - likeness

    def _taps(self, x: Tensor) -> list[Tensor]:
        """The features to compare; the first is the picture itself."""
        return [x, *self.taps(x)]
