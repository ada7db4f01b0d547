"""Tensors that travel to the device, and that a transformer's step makes none travel that would be waited for."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from common.config import load_config
from common.distributed.sequence_parallel import SequenceParallel
from common.kernels.transfer import HostCopy, to_device
from projects.video_diffusion_sr.bare_network import network_without_weights
from tests.conftest import ROOT


def test_where_nothing_is_sent_nothing_is_copied():
    x = torch.arange(5)
    assert to_device(x, "cpu") is x
    assert to_device(x, "meta").shape == x.shape and to_device(x, "meta").device.type == "meta"


@pytest.mark.gpu
def test_sending_does_not_wait_for_the_device():
    """PyTorch itself refuses every call that waits."""
    x = torch.arange(100_000)
    with_gaps = x.view(10, 100, 100)[:, 20:60]
    there = to_device(x, "cuda")  # pinned memory is there from now on
    torch.cuda.synchronize()
    with refused_waiting():
        there, rows = to_device(x, "cuda"), to_device(with_gaps, "cuda")
        with pytest.raises(RuntimeError):
            x.to("cuda")
    assert torch.equal(there.cpu(), x) and torch.equal(rows.cpu(), with_gaps)


@pytest.mark.gpu
def test_the_layout_of_a_clip_that_ranks_share_waits_for_nothing():
    """It is built while the encoder works; waiting would leave the device idle until the layout is there."""
    dit = network_without_weights(load_config(ROOT / "configs_3b" / "main.yaml", ["dit.model.num_layers=2"]).dit.model)
    sequence_group = SequenceParallel(SimpleNamespace(size=2, rank=0))
    dit.layout([(5, 18, 26)], [58], "cuda", sequence_group)  # pinned memory is there from now on
    with refused_waiting():
        dit.layout([(5, 18, 26)], [58], "cuda", sequence_group)


@contextmanager
def refused_waiting():
    """Within this block PyTorch refuses every call that waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_copies_to_the_host_are_what_was_there_when_they_were_ordered(device):
    x = torch.arange(1000, device=device)
    copy = HostCopy(x * 2, x + 1)
    assert copy.nbytes == 16_000
    doubled, more = copy.arrive()
    assert doubled.device.type == "cpu" and torch.equal(doubled, torch.arange(1000) * 2)
    assert torch.equal(more, torch.arange(1, 1001)) and copy.arrive()[0] is doubled
