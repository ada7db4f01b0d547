"""Which kernels operations take is said by a block around them."""

import pytest
import torch

from common.kernels import triton_support
from common.kernels.triton_support import Kernels, kernels, use_triton


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """As with Triton's interpreter: kernels would be taken on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_support, "triton_available", lambda: True)


@torch.no_grad()
def test_a_block_chooses_and_ends():
    x = torch.zeros(1)
    assert use_triton(x)
    with kernels(Kernels.PLAIN):
        assert not use_triton(x)
        with kernels(Kernels.AUTO):
            assert use_triton(x)
        assert not use_triton(x)
    with pytest.raises(ValueError, match="inside"), kernels(Kernels.PLAIN):
        raise ValueError("inside")
    assert use_triton(x)


def test_gradients_take_the_plain_path():
    assert not use_triton(torch.zeros(1))
