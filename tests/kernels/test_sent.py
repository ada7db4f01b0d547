"""Tensors that travel to the device, and that a transformer's step makes none travel that would be waited for."""

import pytest
import torch

from common.kernels.sent import sent


def test_where_nothing_is_sent_nothing_is_copied():
    x = torch.arange(5)
    assert sent(x, "cpu") is x
    assert sent(x, "meta").shape == x.shape and sent(x, "meta").device.type == "meta"


@pytest.mark.gpu
def test_sending_does_not_wait_for_the_device():
    """PyTorch itself refuses every call that waits."""
    x = torch.arange(100_000)
    there = sent(x, "cuda")  # pinned memory is there from now on
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = sent(x, "cuda")
        with pytest.raises(RuntimeError):
            x.to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.cpu(), x)
