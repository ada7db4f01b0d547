"""Which device a process computes on: what PyTorch has here, or a sentence that says what to do."""

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from common.distributed.process import choose_device
from common.kernels import triton_support
from models.video_vae_v3.modules.fold import wide
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.presets import SEEDVR2_TINY


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many devices of each kind, as PyTorch would see them."""

    def has(cuda: int = 0, mps: int = 0, xpu: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu > 0)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)

    has()
    return has


@pytest.mark.parametrize(
    ("devices", "asked", "rank", "taken"),
    [
        ({}, "auto", 3, "cpu"),
        ({"cuda": 2}, "auto", 3, "cuda:1"),
        ({"cuda": 2}, "cuda:0", 1, "cuda:0"),
        ({"mps": 1}, "mps", 0, "mps:0"),
        ({"mps": 1}, "mps", 3, "mps:0"),
        ({"xpu": 2}, "xpu", 1, "xpu:1"),
        ({"xpu": 2}, torch.device("xpu:0"), 1, "xpu:0"),
        ({"mps": 1, "xpu": 1}, "auto", 0, "cpu"),
    ],
)
def test_a_device_that_is_there_is_taken(machine, devices, asked, rank, taken):
    machine(**devices)
    assert choose_device(asked, rank) == torch.device(taken)


@pytest.mark.parametrize(
    ("devices", "asked", "words"),
    [
        ({}, "cuda", "no CUDA device is visible to PyTorch; use --device cpu, or check nvidia-smi"),
        ({}, "cuda:1", "no CUDA device"),
        ({}, "mps", "no Apple MPS device is visible to PyTorch; use --device cpu"),
        ({}, "xpu", "no Intel XPU device is visible to PyTorch; use --device cpu"),
        ({"cuda": 2}, "cuda:2", "no device cuda:2: PyTorch sees 2"),
        ({"xpu": 1}, "xpu:4", "no device xpu:4: PyTorch sees 1"),
        ({}, "gpu", "a device is auto, cpu, cuda, mps or xpu"),
        ({}, "meta", "a device is auto"),
        ({}, "", "a device is auto"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_a_sentence(machine, devices, asked, words):
    machine(**devices)
    with pytest.raises(RuntimeError, match=words):
        choose_device(asked, 0)


def test_the_plain_path_is_named_in_the_log(machine, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    machine(xpu=1, cuda=1)
    choose_device("xpu", 0)
    assert "on xpu everything is computed by plain PyTorch" in caplog.text
    monkeypatch.delenv("SEEDVR_KERNELS", raising=False)
    monkeypatch.setattr(torch.version, "hip", "6.4", raising=False)
    assert not triton_support.triton_available.__wrapped__()
    assert "plain PyTorch in their place, which is slower: they are made for NVIDIA" in caplog.text
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(triton_support.importlib.util, "find_spec", lambda name: None)
    assert not triton_support.triton_available.__wrapped__()
    assert "Triton is not installed" in caplog.text
    monkeypatch.setenv("SEEDVR_KERNELS", "triton")
    triton_support.triton_available.__wrapped__()
    assert "SEEDVR_KERNELS=triton changes nothing" in caplog.text


def test_the_program_ends_with_the_sentence(machine, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    flags = ["--video_path", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--device", "mps"]
    assert cli.main(SEEDVR2_TINY, flags) == 2
    assert "no Apple MPS device is visible to PyTorch" in capsys.readouterr().err


def test_weights_are_derived_on_the_host_where_a_device_has_no_float64():
    mode = FakeTensorMode()
    there = FakeTensor(mode, torch.empty(2, 3, device="meta"), torch.device("mps"))
    with mode:
        assert wide(there).device.type == "cpu" and wide(there).dtype == torch.float64
    assert wide(torch.ones(2)).dtype == torch.float64
