"""The VAE's elementwise kernels against their plain path: odd sizes, parts of buffers, far from zero, all dtypes.

Without a GPU, `TRITON_INTERPRET=1` runs the same kernels in Triton's interpreter where Triton is installed.
"""

import os

import pytest
import torch

from common.kernels import frame_norm
from common.kernels.group_norm import frame_group_norm
from common.kernels.norm_statistics import Norm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = [
    pytest.param("plain"),
    pytest.param("triton", marks=[] if INTERPRETED else pytest.mark.gpu),
]
CASES = [(1, 1, 5, 7, 32, 8), (2, 3, 4, 6, 24, 4), (1, 2, 33, 17, 128, 32), (1, 4, 9, 6, 16, 16)]
DTYPES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(params=KERNELS, autouse=True)
def kernels(request, monkeypatch):
    monkeypatch.setattr(frame_norm, "use_triton", lambda *_: request.param == "triton")
    with torch.no_grad():
        yield request.param


def far_from_zero(*shape, dtype=torch.float32):
    """Channels whose means are up to 16 deviations, as deep activations have.

    The plain path is torch's, which loses digits of the variance with the square of that number: it has a bound.
    """
    x = torch.randn(*shape) + 32 * (torch.rand(shape[-1]) - 0.5)
    return x.to(DEVICE, dtype)


def packed(batch, frames, *rest, dtype, before=2):
    """A part of a larger buffer, poisoned, as a convolution's input is."""
    buffer = torch.full((batch, before + frames, *rest), float("nan"), device=DEVICE, dtype=dtype)
    return buffer, buffer[:, before:]


def expected_norm(x, weight, bias, groups, silu):
    y = frame_group_norm(x.double().permute(0, 4, 1, 2, 3), weight.double(), bias.double(), groups, 1e-6, silu)
    return y.permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_norm_silu_into(case, deferred, silu, dtype):
    *shape, groups = case
    x = far_from_zero(*shape, dtype=dtype)
    weight, bias, waiting = (torch.randn(shape[-1]).to(DEVICE, dtype) for _ in range(3))
    buffer, out = packed(*shape, dtype=dtype)
    frame_norm.norm_silu_into(out, x, Norm(weight, bias, groups, 1e-6, silu), waiting if deferred else None)
    value = x.double() + waiting.double() if deferred else x
    error = (out.double() - expected_norm(value, weight, bias, groups, silu)).abs().max()
    plain_rounding = 0.5 if deferred and dtype != torch.float32 else 0  # the plain path rounds x + deferred
    assert error < DTYPES[dtype] * 10 * max(1, weight.abs().max()) + plain_rounding
    assert buffer[:, :2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_add_measures_what_it_writes(case, residual, dtype, kernels):
    *shape, groups = case
    y, x = far_from_zero(*shape, dtype=dtype), far_from_zero(*shape, dtype=dtype)
    bias, waiting, weight = (torch.randn(shape[-1]).to(DEVICE, dtype) for _ in range(3))
    total = y.double() + bias.double() + (x.double() + waiting.double() if residual else 0)
    out, statistics = frame_norm.add_bias_residual(y.clone(), bias, *((x, waiting) if residual else ()))
    assert (out.double() - total).abs().max() <= DTYPES[dtype] * total.abs().max()
    assert (statistics is not None) == (kernels == "triton")
    normed = torch.empty_like(out)
    frame_norm.norm_silu_into(normed, out, Norm(weight, bias, groups, 1e-6, False), None, statistics)
    assert (normed.double() - expected_norm(out, weight, bias, groups, False)).abs().max() < DTYPES[dtype] * 10


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("size", [(2, 2), (6, 10), (12, 2)])
def test_phase_bias(phases, size, kernels):
    frames, (height, width), channels = 4, size, 24
    y, table = torch.randn(1, frames, height, width, channels), torch.randn(phases, 4, 4, channels)
    expected = y.clone()
    for t in range(frames):
        for h in range(height):
            for w in range(width):
                row = 0 if h == 0 else 3 if h == height - 1 else 1 if h % 2 else 2
                column = 0 if w == 0 else 3 if w == width - 1 else 1 if w % 2 else 2
                expected[0, t, h, w] += table[t % phases, row, column]
    _, target = packed(1, frames, height, width, channels, dtype=torch.float32, before=1)
    out, statistics = frame_norm.add_phase_bias(y.to(DEVICE), table.to(DEVICE), target)
    assert (out.cpu() - expected).abs().max() < 1e-5
    if kernels == "triton":
        mean = statistics.parts[..., 0].mean(2) if statistics.parts.shape[2] == 1 else None
        assert mean is None or (mean[0].cpu() - expected[0].mean((1, 2))).abs().max() < 1e-5


@pytest.mark.parametrize("case", CASES[:2])
def test_writing_into_a_padded_picture(case):
    """The encoder's halving convolutions read a picture with one more row and column."""
    batch, frames, height, width, channels, _ = case
    y, x = torch.randn(2, *case[:5]).to(DEVICE)
    buffer = torch.full((batch, frames, height + 1, width + 1, channels), 7.0, device=DEVICE)
    frame_norm.add_bias_residual(y.clone(), None, x, None, buffer[:, :, :-1, :-1], measure=False)
    assert torch.allclose(buffer[:, :, :-1, :-1], x + y)
    assert (buffer[:, :, -1] == 7).all() and (buffer[:, :, :, -1] == 7).all()


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("cuts", [(1, 4), (2, 2, 1), (5,)])
@pytest.mark.parametrize("case", CASES)
def test_statistics_of_blocks_of_rows_make_the_norm_of_the_picture(case, cuts, deferred):
    batch, frames, _, width, channels, groups = case
    x = far_from_zero(batch, frames, sum(cuts), width, channels)
    weight, bias, waiting = torch.randn(3, channels).to(DEVICE)
    norm, waiting = Norm(weight, bias, groups, 1e-6, True), waiting if deferred else None
    blocks, shared, seen = x.split(cuts, dim=2), [], []

    def note(own):
        shared.append(own)
        return own[None]

    for block in blocks:
        frame_norm.norm_coefficients(block.contiguous(), norm, waiting, None, note)
    for block in blocks:
        out = torch.empty_like(block).contiguous()
        spaced = torch.stack([torch.nn.functional.pad(own.flatten(), (0, 5)) for own in shared])  # as in messages
        gathered = spaced[:, :-5].view(len(shared), *shared[0].shape)
        frame_norm.norm_silu_into(out, block.contiguous(), norm, waiting, None, lambda _, all=gathered: all)
        seen.append(out)
    value = x.double() if waiting is None else x.double() + waiting.double()
    assert (torch.cat(seen, 2).double() - expected_norm(value, weight, bias, groups, True)).abs().max() < 1e-3


def test_statistics_of_some_frames(kernels):
    if kernels == "plain":
        pytest.skip("the plain path takes no statistics")
    y = far_from_zero(1, 4, 6, 5, 16)
    out, statistics = frame_norm.add_bias_residual(y, None)
    weight, bias = torch.randn(2, 16).to(DEVICE)
    normed = torch.empty_like(out[:, 1:3])
    frame_norm.norm_silu_into(normed, out[:, 1:3], Norm(weight, bias, 4, 1e-6, True), None, statistics.frames(1, 3))
    assert (normed.double() - expected_norm(out[:, 1:3], weight, bias, 4, True)).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(1, 1, 16), (2, 131, 32), (3, 260, 24)])
def test_wide_attention_in_chunks(shape):
    q, k, v = torch.randn(3, *shape).to(DEVICE)
    expected = (q.double() @ k.double().mT / shape[-1] ** 0.5).softmax(-1) @ v.double()
    out = frame_norm.wide_attention(q, k, v, most_bytes=1)
    assert (out.double() - expected).abs().max() < (1e-5 if DEVICE == "cpu" else 3e-3)
