"""Attention within sequences of several lengths."""

import torch

from common.kernels.attention import Sequences, attention
from tests.models.test_nadit import Watch


def gradients(q, k, v, groups):
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    with Watch() as watch:
        attention(*inputs, Sequences.from_groups(groups, "cpu")).square().sum().backward()
    written = sum(size for _, size in watch.made.values())
    return [x.grad for x in inputs], written


def test_the_gradient_of_many_lengths_writes_as_much_as_that_of_one():
    """Rows of one length each are taken apart without a tensor of all rows for every length."""
    q, k, v = torch.randn(3, 480, 2, 8).unbind()
    _, one = gradients(q, k, v, [(10, 48)])
    several = [(1, 40 + 2 * n) for n in range(10)]  # 40, 42 ... 58; 490 rows
    assert sum(length for _, length in several) == 490
    q, k, v = torch.randn(3, 490, 2, 8).unbind()
    found, many = gradients(q, k, v, several)
    assert many < 1.5 * one
    start = 0
    for _, length in several:  # as each sequence by itself
        rows = slice(start, start := start + length)
        alone, _ = gradients(q[rows], k[rows], v[rows], [(1, length)])
        for a, b in zip(alone, found, strict=True):
            torch.testing.assert_close(b[rows], a, rtol=1e-5, atol=1e-6)
