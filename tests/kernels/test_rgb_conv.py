"""Convolutions from and to three channels against the library's, in Triton's interpreter or on a GPU."""

import os
from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

import common.kernels
from common.kernels import frame_norm, rgb_conv
from common.kernels.group_norm import frame_group_norm
from common.kernels.norm_statistics import Norm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = ["plain", pytest.param("triton", marks=[] if INTERPRETED else pytest.mark.gpu)]
DTYPES = {torch.float32: 1e-5} | ({} if INTERPRETED else {torch.bfloat16: 1e-2})  # no bfloat16 products interpreted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(1, 3, 5, 7, 3, 24), (2, 4, 16, 9, 3, 16)])
@pytest.mark.parametrize("kernels", [*KERNELS, "stacked"])
@torch.no_grad()
def test_conv_from_few(size, kernel, dtype, kernels, monkeypatch):
    monkeypatch.setattr(rgb_conv, "use_triton", lambda *_: kernels == "triton")
    *shape, outer = size
    x = torch.randn(shape).to(DEVICE, dtype)
    weight = (torch.randn(outer, shape[-1], kernel, 3, 3) / (9 * kernel) ** 0.5).to(DEVICE, dtype)
    expected = F.conv3d(x.double().movedim(-1, 1), weight.double(), padding=(0, 1, 1)).movedim(1, -1)
    run = rgb_conv.conv_of_stacked if kernels == "stacked" else rgb_conv.conv_from_rgb
    out = run(x, weight)
    inner = run(x, weight, pad_rows=False)  # the first and the last row are others'
    assert inner.is_contiguous() and torch.allclose(inner, out[:, :, 1:-1], atol=DTYPES[dtype])
    assert out.is_contiguous() and out.shape == expected.shape
    assert (out.double() - expected).abs().max() <= DTYPES[dtype] * expected.abs().max()


@torch.no_grad()
def test_which_way_few_channels_go(monkeypatch):
    """Tensor cores for 16 bits; float32 would lose bits there, and stays with the own kernel."""
    monkeypatch.setattr(rgb_conv, "use_triton", lambda *_: True)
    seen = []
    monkeypatch.setattr(rgb_conv, "conv_of_stacked", lambda x, weight, _: seen.append(x.dtype) or x)
    monkeypatch.setattr(common.kernels, "rgb_conv_triton", Mock(), raising=False)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rgb_conv.conv_from_rgb(torch.zeros(1, 3, 4, 4, 3, dtype=dtype), torch.zeros(8, 3, 3, 3, 3, dtype=dtype))
    assert seen == [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("_kernels", KERNELS[1:])  # only Triton's have this path
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1, 5, 7, 16, 8), (2, 3, 6, 4, 24, 4)])
@torch.no_grad()
def test_conv_to_few_through_taps(size, dtype, _kernels):
    batch, frames, height, width, channels, groups = size
    x = torch.randn(size[:5]).to(DEVICE, dtype)
    weight = (torch.randn(3, channels, 3, 3, 3) / channels**0.5).to(DEVICE, dtype)
    norm_weight, norm_bias, deferred = torch.randn(3, channels).to(DEVICE, dtype)
    bias = torch.randn(3).to(DEVICE, dtype)
    norm = Norm(norm_weight, norm_bias, groups, 1e-6, True)
    scale, shift = frame_norm.norm_coefficients(x, norm, deferred)
    taps = torch.full((batch, 81, frames, height, width), float("nan"), device=DEVICE)
    taps = taps.to(rgb_conv.tap_dtype(x))
    rgb_conv.tap_projection(taps, x, scale.float(), shift.float(), weight)
    value = (x.double() + deferred.double()).permute(0, 4, 1, 2, 3)
    normed = frame_group_norm(value, norm_weight.double(), norm_bias.double(), groups, 1e-6, True)
    normed = torch.cat([normed[:, :, :1]] * 2 + [normed], 2)
    expected = F.conv3d(normed, weight.double(), bias.double(), padding=(0, 1, 1))
    sums = rgb_conv.new_tap_sums(taps[:, :, :1]).fill_(float("nan"))
    for frame in range(frames):
        found = rgb_conv.streaming_tap_sum(taps[:, :, frame : frame + 1], bias, sums, first=frame == 0)
        error = (found.double() - expected[:, :, frame : frame + 1]).abs().max()
        assert error <= 2 * DTYPES[dtype] * expected.abs().max()
