"""Winograd F(2, 3) and F(4, 3) in time: algebra against convolution, kernels against algebra, precision.

Without a GPU, `TRITON_INTERPRET=1` runs the same kernels in Triton's interpreter where Triton is installed.
"""

import os

import pytest
import torch
from torch.nn import functional as F

from common.kernels import frame_norm, winograd
from common.kernels.norm_statistics import Norm
from common.kernels.winograd import (
    chunk_of,
    new_statistics,
    transform_dtype,
    transform_input,
    transform_output,
    transform_weights,
)
from common.kernels.winograd_matrices import (
    CARRIED,
    INPUT_SCALE,
    POINTS,
    TAPS,
    WEIGHT_SCALE,
    input_matrix,
    output_matrix,
    weight_matrix,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = [pytest.param("plain"), pytest.param("triton", marks=[] if INTERPRETED else pytest.mark.gpu)]
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CASES = [(1, 5, 7, 32, 16), (2, 9, 6, 24, 40), (1, 6, 33, 128, 72)]  # B H W C O


@pytest.fixture(params=POINTS)
def m(request):
    return request.param


@pytest.fixture(params=KERNELS, autouse=True)
def kernels(request, monkeypatch):
    for module in (frame_norm, winograd):
        monkeypatch.setattr(module, "use_triton", lambda *_: request.param == "triton")
    with torch.no_grad():
        yield request.param


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_the_matrices_are_the_filter(m):
    """y_i = sum over taps j of d_{i + j} g_j, for every input and tap alone."""
    matrices = input_matrix, weight_matrix, output_matrix
    b, g, a = (torch.tensor(matrix(m), dtype=torch.float64) for matrix in matrices)
    assert (b.shape, g.shape, a.shape) == ((m + 2, m + 2), (m + 2, TAPS), (m, m + 2))
    found = torch.einsum("im,mj,mk->ijk", a, g, b)
    expected = torch.zeros(m, TAPS, m + 2).double()
    for i in range(m):
        for j in range(TAPS):
            expected[i, j, i + j] = 1
    assert (found - expected).abs().max() < 1e-14


def inputs(case, dtype, m):
    batch, height, width, channels, _ = case
    x = torch.randn(batch, m, height, width, channels).mul(2).add(3 * torch.randn(channels)).to(DEVICE, dtype)
    scale, shift = torch.randn(2, batch * m, channels).to(DEVICE)
    past = torch.randn(batch, CARRIED, height, width, channels).to(DEVICE, transform_dtype(dtype))
    return x, scale, shift, past


def in_bands(case, dtype, m, step, silu=True):
    """The combinations of a picture in bands with a row more at either side, and what is carried on."""
    x, scale, shift, past = inputs(case, dtype, m)
    height, parts, carried = x.shape[2], [], past.clone()
    for start in range(0, height, step):
        stop = min(start + step, height)
        first, last = max(start - 1, 0), min(stop + 1, height)
        skip = start % 3  # rows before and behind those that are filled belong to somebody else
        shape = m + 2, x.shape[0], last - first + skip + 1, *x.shape[3:]
        room = x.new_full(shape, float("nan"), dtype=transform_dtype(dtype))
        settled = first, height if stop == height else stop - 1
        transform_input(list(room), x, scale, shift, silu, carried, (first, last), settled, skip)
        out = room[:, :, skip:-1]
        assert out.isfinite().all() and room[:, :, :skip].isnan().all() and room[:, :, -1:].isnan().all()
        parts.append(out[:, :, start - first : stop - first])
    normed = x.double() * scale.double().view(x.shape[0], m, 1, 1, -1)
    normed = normed + shift.double().view(x.shape[0], m, 1, 1, -1)
    normed = (F.silu(normed) if silu else normed) * INPUT_SCALE
    frames = torch.cat([past.double(), normed], 1)
    expected = torch.einsum("mt,bthwc->mbhwc", torch.tensor(input_matrix(m)).double().to(DEVICE), frames)
    return torch.cat(parts, 2), expected, carried, normed[:, -CARRIED:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("silu", "step"), [(True, 2), (False, 3), (True, 100)])
@pytest.mark.parametrize("case", CASES)
def test_input(case, silu, step, dtype, m):
    found, expected, carried, last = in_bands(case, dtype, m, step, silu)
    assert relative(found, expected) < DTYPES[dtype] and relative(carried, last) < DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
@pytest.mark.parametrize("case", [*CASES, (1, 4, 1540, 8, 16)])
def test_output_and_its_statistics(case, residual, dtype, m, kernels, monkeypatch):
    monkeypatch.setattr(winograd, "MOST_IN_CHUNK", 40 if case[2] < 40 else 770)
    batch, height, width, _, outer = case
    products = torch.randn(m + 2, batch, height, width, outer).to(DEVICE, transform_dtype(dtype))
    bias, deferred = (3 * torch.randn(2, outer)).to(DEVICE, dtype)
    x = None if residual == "none" else torch.randn(batch, m, height, width, outer).to(DEVICE, dtype)
    matrix = torch.tensor(output_matrix(m)).double().to(DEVICE) / (INPUT_SCALE * WEIGHT_SCALE)
    expected = torch.einsum("fm,mbhwc->bfhwc", matrix, products.double()) + bias.double()
    expected = expected if x is None else expected + x.double() + deferred.double()
    out = x if residual == "in place" else torch.full_like(expected, float("nan"), dtype=dtype)
    statistics, align = new_statistics(out), chunk_of(width)[1]
    step = max(2 // align, 1) * align
    for start in range(0, height, step):
        stop = min(start + step, height)
        skip = min(start, 1)
        part = [p[:, start - skip : stop + 1].contiguous() for p in products]
        transform_output(out, part, (start, stop), skip, bias, x, None if x is None else deferred, statistics)
    assert relative(out, expected) < DTYPES[dtype]
    assert (statistics is not None) == (kernels == "triton")
    if statistics is not None:
        weight, shift = torch.ones(2, outer).to(DEVICE, dtype)
        normed = torch.empty_like(out)
        frame_norm.norm_silu_into(normed, out, Norm(weight, shift * 0, outer // 8, 1e-6, False), None, statistics)
        frames = out.double().permute(0, 1, 4, 2, 3).flatten(0, 1)
        wanted = F.group_norm(frames, outer // 8, eps=1e-6).unflatten(0, (batch, m)).permute(0, 1, 3, 4, 2)
        assert relative(normed, wanted) < DTYPES[dtype]


@pytest.mark.parametrize("case", [(1, 6, 8, 0, 24), (2, 4, 1544, 0, 16)])
def test_output_with_the_bias_of_an_upsampler(case, m, kernels):
    """By phase and border, rows counted from the picture's top; the statistics are those of what is written."""
    batch, height, width, _, outer = case
    products = torch.randn(m + 2, batch, height, width, outer).to(DEVICE)
    table = torch.randn(1, 4, 4, outer).to(DEVICE)
    out = torch.empty(batch, m, height, width, outer, device=DEVICE)
    expected = torch.empty_like(out)
    transform_output(expected, list(products), (0, height), 0, None)
    expected, _ = frame_norm.add_phase_bias(expected, table)
    statistics, align = new_statistics(out), chunk_of(width)[1]
    for start in range(0, height, align):
        rows = start, min(start + align, height)
        transform_output(
            out, [p[:, rows[0] : rows[1]].contiguous() for p in products], rows, 0, table, None, None, statistics
        )
    assert relative(out, expected) < 1e-6
    if kernels == "triton":
        mean = (statistics.parts[..., 0] * pixels_of_chunks(statistics)).sum(2) / statistics.pixels
        assert (mean - out.mean((2, 3))).abs().max() < 1e-4


def pixels_of_chunks(statistics):
    chunks = statistics.parts.shape[2]
    counts = [min(statistics.chunk, statistics.pixels - n * statistics.chunk) for n in range(chunks)]
    return torch.tensor(counts, device=DEVICE)[:, None]


@pytest.mark.parametrize("channels", [16, 24])
def test_coefficients_are_the_norm(channels, m):
    """Far from zero, with a bias that waits, of more chunks than are summed at once."""
    x = (torch.randn(2, m, 40, 9, channels) + 8 * torch.randn(channels)).to(DEVICE)
    weight, bias, deferred = torch.randn(3, channels).to(DEVICE)
    scale, shift = frame_norm.norm_coefficients(x, Norm(weight, bias, channels // 8, 1e-6, False), deferred)
    found = x * scale.view(2, m, 1, 1, -1) + shift.view(2, m, 1, 1, -1)
    expected = torch.empty_like(x)
    frame_norm.norm_silu_into(expected, x, Norm(weight, bias, channels // 8, 1e-6, False), deferred)
    assert relative(found, expected) < 1e-5


def test_statistics_of_many_chunks(kernels, monkeypatch):
    if kernels == "plain":
        pytest.skip("the plain path takes no statistics")
    from common.kernels import frame_norm_triton

    x = (torch.randn(1, 1, 40, 9, 16) + 8 * torch.randn(16)).to(DEVICE)
    norm = Norm(*torch.randn(2, 16).to(DEVICE), 2, 1e-6, False)
    expected = frame_norm.norm_coefficients(x, norm)
    chunk = 7
    parts = torch.stack(
        [torch.stack([p.mean(0), (p - p.mean(0)).square().sum(0)], -1) for p in x.flatten(2, 3)[0, 0].split(chunk)]
    )
    statistics = frame_norm.NormStatistics(parts[None, None].contiguous(), chunk, 360)
    monkeypatch.setattr(frame_norm_triton, "MOST_CHUNKS", 16)
    for a, b in zip(frame_norm.norm_coefficients(x, norm, None, statistics), expected, strict=True):
        assert relative(a, b) < 1e-5


def test_it_loses_less_than_bfloat16_does(m, kernels):
    """Frames that resemble each other, as a clip's do, and those that do not: rounded to what the products are in."""
    if kernels == "triton":
        pytest.skip("about numbers, not about kernels")
    channels, outer = 9 * 64, 32
    weight = torch.randn(outer, channels, TAPS).double() / (TAPS * channels) ** 0.5
    for alike in (0.0, 0.9):
        still = torch.randn(400, 1, channels).double()
        frames = F.silu(alike * still + (1 - alike**2) ** 0.5 * torch.randn(400, m + 2, channels).double())

        def convolve(frames, weight):
            return torch.stack([torch.einsum("nkc,ock->no", frames[:, i : i + 3], weight) for i in range(m)], 1)

        exact = convolve(frames, weight)
        plain = convolve(frames.bfloat16().double(), weight.bfloat16().double()).bfloat16()
        combined = (
            torch.einsum("mt,ntc->mnc", torch.tensor(input_matrix(m)).double(), frames * INPUT_SCALE).half().double()
        )
        taps = transform_weights(weight.movedim(2, 0)[..., None, None], m)[..., 0, 0].half().double()
        products = torch.einsum("mnc,moc->mno", combined, taps).half().double()
        y = torch.einsum("fm,mno->nfo", torch.tensor(output_matrix(m)).double(), products) / (
            INPUT_SCALE * WEIGHT_SCALE
        )
        assert 3 * relative(y, exact) < relative(plain, exact)
