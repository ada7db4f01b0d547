"""The CPU's way of convolving against the library's, values and gradients, in both layouts."""

import pytest
import torch
from torch.nn import functional as F

from common.kernels.conv3d import conv3d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (1, 1, 1), (0, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 0, 0)), ((1, 1, 1), (1, 1, 1), (0, 0, 0))],
)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients(kernel, stride, padding, layout, biased):
    x = torch.randn(2, 5, 5, 7, 9).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 5, *kernel).to(memory_format=layout).requires_grad_()
    bias = torch.randn(6, requires_grad=True) if biased else None
    inputs = [x, weight] + ([bias] if biased else [])
    ours = conv3d(x, weight, bias, stride, padding)
    theirs = F.conv3d(x, weight, bias, stride, padding)
    assert torch.allclose(ours, theirs, atol=1e-4)
    upstream = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-3)
