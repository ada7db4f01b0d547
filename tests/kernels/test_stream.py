"""The transformer's kernels against their plain path: one and several samples, odd widths, no rows, both dtypes."""

import os

import pytest
import torch
from torch.nn import functional as F

from common.kernels import gated, norm, window_qkv
from models.nadit.mlp import MLP, SwiGLU, set_token_chunk

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = ["plain", pytest.param("triton", marks=[] if INTERPRETED else pytest.mark.gpu)]
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture(params=KERNELS, autouse=True)
def kernels(request, monkeypatch):
    for module in (norm, gated, window_qkv):
        monkeypatch.setattr(module, "use_triton", lambda *_: request.param == "triton")
    with torch.no_grad():
        yield request.param


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(DEVICE, dtype)


def close(a, b, dtype):
    return (a.double() - b.double()).abs().max() <= DTYPES[dtype] * max(1.0, b.double().abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 100, 192])
@pytest.mark.parametrize("samples", [1, 3])
def test_norm_modulate_and_gate_residual(samples, width, dtype):
    x, y = draw(7, width, dtype=dtype), draw(7, width, dtype=dtype)
    scale, shift, gate = (draw(width, samples, dtype=dtype).T for _ in range(3))  # strided, as the time embedding's are
    sample = None if samples == 1 else torch.tensor([0, 0, 2, 1, 1, 2, 0], device=DEVICE)
    index = torch.zeros(7, dtype=torch.long, device=DEVICE) if sample is None else sample
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = normed * scale.double()[index] + shift.double()[index]
    assert close(norm.norm_modulate(x, scale, shift, sample, 1e-5), expected, dtype)
    expected = x.double() + y.double() * gate.double()[index]
    assert close(norm.gate_residual(x, y, gate, sample), expected, dtype)
    assert norm.norm_modulate(x[:0], scale, shift, None if sample is None else sample[:0], 1e-5).shape == (0, width)
    assert norm.gate_residual(x[:0], y[:0], gate, None if sample is None else sample[:0]).shape == (0, width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 37), (70, 64)])
def test_silu_mul(shape, dtype):
    gate, x = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype)
    expected = F.silu(gate.double()) * x.double()
    assert close(gated.silu_mul(gate, x), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [(True, True), (True, False)])
@pytest.mark.parametrize(("heads", "features", "pairs"), [(3, 16, 6), (2, 8, 3), (5, 32, 16)])
def test_window_qkv(heads, features, pairs, turned, dtype):
    counts = 11, 4
    streams = []
    for n, turn in zip(counts, turned, strict=True):
        angle = draw(n, pairs)
        qkv, norms = draw(n, 3 * heads * features, dtype=dtype), draw(2, features, dtype=dtype)
        streams.append(window_qkv.Stream(qkv, *norms, (angle.cos(), angle.sin()) if turn else None))
    rows = torch.cat([torch.randperm(sum(counts)), torch.tensor([11, 12, 13, 14, 0])]).to(DEVICE)
    q, k, v = window_qkv.window_qkv(*streams, rows, heads, 1e-5)
    for place, row in enumerate(rows.tolist()):
        stream, n = (streams[0], row) if row < counts[0] else (streams[1], row - counts[0])
        expected = list(stream.qkv[n].double().view(3, heads, features))
        for i, weight in enumerate((stream.norm_q, stream.norm_k)):
            x = expected[i] / (expected[i].square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
            if stream.rotation is not None:
                z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
                cos, sin = (table[n].double() for table in stream.rotation)
                z = torch.cat([z[:, :pairs] * torch.complex(cos, sin), z[:, pairs:]], -1)
                x = torch.view_as_real(z).flatten(-2)
            expected[i] = x
        for got, want in zip((q, k, v), expected, strict=True):
            assert close(got[place], want, dtype)
    assert window_qkv.window_qkv(*streams, rows[:0], heads, 1e-5)[0].shape == (0, heads, features)


@pytest.mark.parametrize("kind", [MLP, SwiGLU])
def test_tokens_in_chunks_change_nothing(kind):
    layer = kind(24, 2).to(DEVICE)
    x = draw(13, 24)
    whole = layer(x)
    set_token_chunk(layer, 4)
    assert torch.allclose(layer(x), whole, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        set_token_chunk(layer, 0)
