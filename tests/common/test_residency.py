"""Models come and go without losing their values, their layout, or a copy back."""

import torch
from torch import nn

from common.residency import Residency


def models() -> dict[str, nn.Module]:
    conv = nn.Conv3d(3, 4, 3)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    conv.register_buffer("table", torch.randn(2, 3), persistent=False)
    return {"first": conv, "second": nn.Linear(4, 4)}


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def places(model: nn.Module) -> set[int]:
    """Where a model's values lie: the host's memory, or a copy on the device."""
    return {tensor.data_ptr() for tensor in tensors(model)}


def test_one_at_a_time():
    both = models()
    before = {name: [t.clone() for t in tensors(m)] for name, m in both.items()}
    residency = Residency(both, "cpu", one_at_a_time=True)
    masters = {name: places(model) for name, model in both.items()}
    for _ in range(2):
        residency.switch("first", ["second"])
        first = both["first"]
        assert not places(first) & masters["first"] and not places(both["second"]) & masters["second"]
        assert first.weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert all(torch.equal(a, b) for a, b in zip(tensors(first), before["first"], strict=True))
        residency.switch("second")
        assert places(first) == masters["first"] and places(both["second"]) != masters["second"]
        assert all(torch.equal(a, b) for a, b in zip(tensors(both["second"]), before["second"], strict=True))
        residency.switch(None)
        assert places(both["second"]) == masters["second"]


@torch.inference_mode()
def test_everything_resident_and_usable_after_inference_mode():
    both = models()
    places_before = {name: places(model) for name, model in both.items()}
    Residency(both, "cpu", one_at_a_time=False).switch("second")
    assert {name: places(model) for name, model in both.items()} == places_before
    with torch.inference_mode(False):
        fresh = models()
    Residency(fresh, "cpu", one_at_a_time=True)
    with torch.inference_mode(False):
        fresh["second"].weight[:, None]  # an inference tensor would refuse to be viewed here
        assert not fresh["second"].weight.data.is_inference()
