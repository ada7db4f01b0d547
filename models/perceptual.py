"""LPIPS (arXiv 1801.03924): a perceptual distance of two pictures by VGG-16 features. The user provides its weights."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vgg import VGGDistance

TAP_WIDTHS = (64, 128, 256, 512, 512)
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's normalisation of pictures in [-1, 1]
EPS = 1e-10


class PerceptualDistance(VGGDistance):
    """The network of LPIPS, frozen.

    Its names are those of torchvision's VGG-16 (`features.N.*`) and of LPIPS 0.1 (`linK.model.1.weight`).
    """

    name = "perceptual"

    def __init__(self) -> None:
        super().__init__(lambda: nn.MaxPool2d(2), MEAN, STD)
        for k, width in enumerate(TAP_WIDTHS):
            self.add_module(f"lin{k}", _Weighting(width))
        self.requires_grad_(False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "PerceptualDistance":
        """Build the network with weights, see `VGGDistance.load`."""
        return cls().load(state)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of pictures [N, 3, H, W] in [-1, 1], at least 16 pixels a side: float32 [N], 0 if equal."""
        total = a.new_zeros(len(a), dtype=torch.float32)
        for k, (x, y) in enumerate(zip(self.taps(a), self.taps(b), strict=True)):
            difference = (_unit(x.float()) - _unit(y.float())).square()
            weights = self.get_parameter(f"lin{k}.model.1.weight")
            total = total + F.conv2d(difference, weights.float()).mean((1, 2, 3))
        return total


class _Weighting(nn.Module):
    """Holds one learned weight per channel, under the name in the LPIPS files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
        nn.init.ones_(self.get_parameter("model.1.weight"))


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPS)
