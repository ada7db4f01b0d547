"""DISTS against its definition, written out."""

import pytest
import torch
import torch.nn.functional as F

from models.dists import MEAN, STD, TAP_WIDTHS, StructureTextureDistance

CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's numbers, by stage


@pytest.fixture(scope="module")
def distance():
    torch.manual_seed(0)
    made = StructureTextureDistance()
    made.alpha.uniform_(0, 1)
    made.beta.uniform_(0, 1)
    return made


def pictures(seed: int, count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def halved(x):
    """The root of the squares' average under a Hann window, every second position."""
    taps = torch.tensor([1.0, 2.0, 1.0])
    window = (taps[:, None] * taps / 16)[None, None]
    parts = [F.conv2d(c[None, None].square(), window, stride=2, padding=1)[0, 0] for c in x]
    return (torch.stack(parts) + 1e-12).sqrt()


def plain(state, a, b):
    """One pair [3, H, W], channel by channel."""
    taps = []
    for picture in (a, b):
        x = (picture + 1) / 2
        found = [x]
        x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        for k, stage in enumerate(CONVS):
            x = halved(x) if k else x
            for number in stage:
                weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
                x = F.conv2d(x[None], weight, bias, padding=1)[0].relu()
            found.append(x)
        taps.append(found)
    total, number = 0.0, 0
    alpha, beta = state["alpha"].flatten(), state["beta"].flatten()
    for x, y in zip(*taps, strict=True):
        for p, q in zip(x.flatten(1), y.flatten(1), strict=True):
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            structure = (2 * covariance + 1e-6) / (p.var(correction=0) + q.var(correction=0) + 1e-6)
            total = total + alpha[number] * texture + beta[number] * structure
            number += 1
    return 1 - total / (alpha.sum() + beta.sum())


def test_it_is_what_the_paper_defines(distance):
    a, b = pictures(1), pictures(2)
    expected = torch.stack([plain(distance.state_dict(), x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(distance(a, b), expected, rtol=1e-4, atol=1e-5)


def test_equal_pictures_have_none_and_it_is_symmetric(distance):
    a, b = pictures(3), pictures(4)
    assert distance(a, a).abs().max() < 1e-5
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert (distance(a, 0.9 * a) < distance(a, b)).all()


def test_weights_come_by_name(distance):
    state = dict(distance.state_dict())
    again = StructureTextureDistance.from_state(state | {"classifier.0.weight": torch.zeros(1)})
    assert torch.equal(again(pictures(5), pictures(6)), distance(pictures(5), pictures(6)))
    assert state["alpha"].shape == (1, sum(TAP_WIDTHS), 1, 1)
    with pytest.raises(ValueError, match="lack beta"):
        StructureTextureDistance.from_state({k: v for k, v in state.items() if k != "beta"})
