"""Spreading a sample's vector over its tokens, and back."""

import pytest
import torch

from common.kernels.token_broadcast import broadcast_to_tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_index_select(dtype):
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 7, generator=draws).to(dtype).requires_grad_()
    sample = torch.randint(4, (300,), generator=draws)  # not in order, and one sample has no token
    gradient = torch.randn(300, 7, generator=draws).to(dtype)
    wanted = vectors.index_select(0, sample)
    (of_plain,) = torch.autograd.grad(wanted, vectors, gradient)
    made = broadcast_to_tokens(vectors, sample)
    (of_own,) = torch.autograd.grad(made, vectors, gradient)
    assert torch.equal(made, wanted)
    exact = torch.zeros(5, 7, dtype=torch.float64).index_add(0, sample, gradient.double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(of_own.double(), exact, atol=tolerance, rtol=0)
    assert (of_own.double() - exact).abs().max() <= (of_plain.double() - exact).abs().max() + tolerance / 10
    assert not of_own[4].any()


def test_without_gradients_or_samples():
    vectors = torch.randn(1, 7)
    assert broadcast_to_tokens(vectors, None) is vectors
    with torch.inference_mode():
        assert torch.equal(broadcast_to_tokens(vectors, torch.zeros(3, dtype=torch.long)), vectors.expand(3, 7))
