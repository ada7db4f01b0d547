"""LPIPS (arXiv 1801.03924): how different two pictures look to a VGG-16, for those who have its weights."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# VGG-16 up to its last convolution: widths, "M" for a max pool. The distance is taken before every pool and at the end.
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
TAP_WIDTHS = (64, 128, 256, 512, 512)
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1], as LPIPS was trained
EPS = 1e-10


class PerceptualDistance(nn.Module):
    """Frozen. Names are those of torchvision's VGG-16 (`features.N.*`) and of LPIPS 0.1 (`linK.model.1.weight`)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in VGG16:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        for k, width in enumerate(TAP_WIDTHS):
            self.add_module(f"lin{k}", _Weighting(width))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "PerceptualDistance":
        """Built with weights; ValueError where one is missing. The classifier's weights of a VGG file are ignored."""
        distance = cls()
        wanted = distance.state_dict()
        missing = sorted(set(wanted) - set(state))
        if missing:
            raise ValueError(f"the perceptual weights lack {missing[0]} and {len(missing) - 1} more of {len(wanted)}")
        distance.load_state_dict({name: state[name] for name in wanted})
        return distance.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in [-1, 1], 16 pixels or more a side -> float32 [N], 0 where they are equal."""
        total = a.new_zeros(len(a), dtype=torch.float32)
        for k, (x, y) in enumerate(zip(self._taps(a), self._taps(b), strict=True)):
            difference = (_unit(x.float()) - _unit(y.float())).square()
            weights = self.get_parameter(f"lin{k}.model.1.weight")
            total = total + F.conv2d(difference, weights.float()).mean((1, 2, 3))
        return total

    def _taps(self, x: Tensor) -> list[Tensor]:
        x, taps = (x - self.mean) / self.std, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                taps.append(x)
            x = layer(x)
        return [*taps, x]


class _Weighting(nn.Module):
    """Holds one learned weight a channel under the name that LPIPS files have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
        nn.init.ones_(self.get_parameter("model.1.weight"))


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPS)
