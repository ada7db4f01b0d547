"""VGG-16 up to its last convolution (arXiv 1409.1556), whose features perceptual distances compare."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self

import torch
from torch import Tensor, nn

# Widths of the convolutions, each followed by ReLU; None for a pool, which halves the picture.
VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)


class VGGDistance(nn.Module):
    """The base class of perceptual distances: VGG-16's features, with torchvision's names (`features.N.*`).

    Args:
        pool: makes a pooling layer.
        mean, std: normalisation of the three colour channels that the network was trained with.
    """

    mean: Tensor
    std: Tensor
    name = "VGG"  # in messages

    def __init__(self, pool: Callable[[], nn.Module], mean: Iterable[float], std: Iterable[float]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in VGG16:
            if width is None:
                layers.append(pool())
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(tuple(mean))[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std))[:, None, None], persistent=False)

    def load(self, state: Mapping[str, Tensor]) -> Self:
        """Load the weights; ValueError if one is missing. Other weights, such as VGG's classifier, are ignored."""
        wanted = self.state_dict()
        missing = sorted(set(wanted) - set(state))
        if missing:
            raise ValueError(f"the {self.name} weights lack {missing[0]} and {len(missing) - 1} more of {len(wanted)}")
        self.load_state_dict({name: state[name] for name in wanted})
        return self.eval()

    def taps(self, x: Tensor) -> Iterator[Tensor]:
        """Pictures [N, 3, H, W] -> their features before each pooling layer and at the end, each [N, C, h, w]."""
        x = (x - self.mean) / self.std
        for layer in self.features:
            if not isinstance(layer, nn.Conv2d | nn.ReLU):
                yield x
            x = layer(x)
        yield x
