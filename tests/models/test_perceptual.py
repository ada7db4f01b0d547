"""LPIPS against its definition, written out."""

import pytest
import torch
import torch.nn.functional as F

from models.perceptual import MEAN, STD, PerceptualDistance

CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's numbers, by stage


@pytest.fixture(scope="module")
def distance():
    torch.manual_seed(0)
    made = PerceptualDistance()
    for k in range(5):
        made.get_parameter(f"lin{k}.model.1.weight").uniform_(0, 1)
    return made


def pictures(count=2, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


def plain(state, a, b):
    """Mean over positions of the weighted squared difference of unit features, summed over five stages."""
    total = 0
    x, y = ((p - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None] for p in (a, b))
    for k, stage in enumerate(CONVS):
        for number in stage:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x, y = (F.conv2d(p, weight, bias, padding=1).relu() for p in (x, y))
        unit_x, unit_y = (F.normalize(p, dim=1, eps=1e-10) for p in (x, y))
        weight = state[f"lin{k}.model.1.weight"][0]  # C 1 1
        total = total + (weight * (unit_x - unit_y) ** 2).sum(1).mean((1, 2))
        x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
    return total


def test_it_is_what_the_paper_defines(distance):
    a, b = pictures(2), pictures(2).flip(0)
    torch.testing.assert_close(distance(a, b), plain(distance.state_dict(), a, b), rtol=1e-4, atol=1e-7)


def test_a_distance(distance):
    a, b = pictures(2), pictures(2).flip(-1)
    assert torch.equal(distance(a, a), torch.zeros(2))
    assert (distance(a, b) > 0).all()
    torch.testing.assert_close(distance(a, b), distance(b, a))


def test_it_is_frozen_but_lets_gradients_through(distance):
    a = pictures(1).requires_grad_()
    distance(a, pictures(1).flip(-1)).sum().backward()
    assert a.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_weights_are_found_by_their_public_names(distance):
    state = dict(distance.state_dict()) | {"classifier.0.weight": torch.zeros(1)}
    again = PerceptualDistance.from_state(state)
    a, b = pictures(1), pictures(1).flip(-1)
    assert torch.equal(again(a, b), distance(a, b))
    del state["lin2.model.1.weight"]
    with pytest.raises(ValueError, match=r"lin2\.model\.1\.weight"):
        PerceptualDistance.from_state(state)
