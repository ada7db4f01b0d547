"""Tensors that travel to the device, and that a transformer's step makes none travel that would be waited for."""

import pytest
import torch

from common.kernels.transfer import HostCopy, to_device


def test_where_nothing_is_sent_nothing_is_copied():
    x = torch.arange(5)
    assert to_device(x, "cpu") is x
    assert to_device(x, "meta").shape == x.shape and to_device(x, "meta").device.type == "meta"


@pytest.mark.gpu
def test_sending_does_not_wait_for_the_device():
    """PyTorch itself refuses every call that waits."""
    x = torch.arange(100_000)
    there = to_device(x, "cuda")  # pinned memory is there from now on
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = to_device(x, "cuda")
        with pytest.raises(RuntimeError):
            x.to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.cpu(), x)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_copies_to_the_host_are_what_was_there_when_they_were_ordered(device):
    x = torch.arange(1000, device=device)
    copy = HostCopy(x * 2, x + 1)
    assert copy.nbytes == 16_000
    doubled, more = copy.arrive()
    assert doubled.device.type == "cpu" and torch.equal(doubled, torch.arange(1000) * 2)
    assert torch.equal(more, torch.arange(1, 1001)) and copy.arrive()[0] is doubled
