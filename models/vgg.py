"""The VGG-16 that perceptual distances compare pictures by (arXiv 1409.1556), up to its last convolution."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self

import torch
from torch import Tensor, nn

# Widths of the convolutions, each followed by ReLU; None for a pool, which halves the picture.
VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)


class VGGDistance(nn.Module):
    """The frozen features, under the names that they have in torchvision (`features.N.*`), and what loads them.

    Args:
        pool: makes a pool. mean, std: of the three channels, by which the network was trained to normalise pictures.
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
        """Take the weights; ValueError where one is missing. The classifier's weights of a VGG file are ignored."""
        wanted = self.state_dict()
        missing = sorted(set(wanted) - set(state))
        if missing:
            raise ValueError(f"the {self.name} weights lack {missing[0]} and {len(missing) - 1} more of {len(wanted)}")
        self.load_state_dict({name: state[name] for name in wanted})
        return self.eval()

    def taps(self, x: Tensor) -> Iterator[Tensor]:
        """Pictures [N, 3, H, W] -> their features before every pool and at the end, each [N, C, h, w]."""
        x = (x - self.mean) / self.std
        for layer in self.features:
            if not isinstance(layer, nn.Conv2d | nn.ReLU):
                yield x
            x = layer(x)
        yield x
