"""Laws of YUV and RGB: the formula in real numbers, and the same bits from every tile and device."""

import numpy as np
import pytest
import torch

import data.yuv.fixed as fixed
from data.yuv.columns import merge, split
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import LUMA_WEIGHTS, MATRIX_OF_NUMBER, SITES, YuvLayout, rgb_to_yuv
from data.yuv.to_rgb import to_rgb
from tests.data.yuv_formula import NEAREST, codes, noise, real_rgb, real_yuv

MATRICES = sorted(set(MATRIX_OF_NUMBER.values()))
SUBSAMPLINGS = [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (4, 4)]


def check_against_formula(layout, height=22, width=28):
    planes = noise(layout, height=height, width=width)
    real = real_rgb(planes, layout)
    levels, floats = to_rgb(planes, layout), to_rgb(planes, layout, torch.float32)
    assert np.abs(levels.numpy() - real.clip(0, 255)).max() < NEAREST
    assert np.abs(255 * floats.double().numpy() - real.clip(0, 255)).max() < NEAREST - 0.5
    assert floats.min() >= 0 and floats.max() <= 1


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_to_rgb_is_the_formula_for_every_matrix_and_range(matrix, full_range):
    for depth in (8, 10, 12):
        check_against_formula(YuvLayout(depth=depth, matrix=matrix, full_range=full_range))


@pytest.mark.parametrize("location", SITES)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS, ids=str)
def test_to_rgb_is_the_formula_for_every_place_of_chroma_and_odd_sizes(subsampling, location):
    for depth, height, width in ((8, 22, 28), (8, 21, 27), (16, 21, 27), (9, 1, 1), (8, 2, 3), (14, 3, 2)):
        check_against_formula(YuvLayout(subsampling=subsampling, depth=depth, location=location), height, width)


@pytest.mark.parametrize("depth,shift", [(8, 0), (10, 6), (12, 4), (16, 0)])
@pytest.mark.parametrize("model", ["yuv", "grey", "rgb"])
def test_to_rgb_of_words_with_low_bits_unused_and_of_grey_and_rgb(model, depth, shift):
    check_against_formula(YuvLayout(model=model, depth=depth, shift=shift, subsampling=(2, 2)))
    check_against_formula(YuvLayout(model=model, depth=depth, shift=shift, full_range=True), 5, 7)


def test_full_range_grey_and_8_bit_rgb_come_back_as_they_are():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 4, 64)
    for layout, planes in (
        (YuvLayout(model="grey", full_range=True), (ramp,)),
        (YuvLayout(model="rgb"), (ramp, ramp.flip(-1), ramp.flip(1))),
        (YuvLayout(full_range=True), (ramp, *[torch.full((1, 2, 32), 128, dtype=torch.uint8)] * 2)),
    ):
        rgb = to_rgb(planes, layout)
        assert torch.equal(rgb[:, 0], ramp)
        assert torch.equal(rgb, torch.stack(planes if layout.model == "rgb" else [ramp] * 3, dim=1))
        assert to_rgb(planes, layout, torch.float32).max() == 1
        assert torch.equal((to_rgb(planes, layout, torch.float32) * 255).round().to(torch.uint8), rgb)


@pytest.mark.parametrize("height", [20, 6, 5, 3])
def test_interlaced_chroma_belongs_to_fields(height):
    layout = YuvLayout(interlaced=True)
    planes = noise(layout, height=height)
    rgb = to_rgb(planes, layout)
    for field in (0, 1):
        real = real_rgb([p[:, field::2] for p in planes], layout, field)
        assert np.abs(rgb[:, :, field::2].numpy() - real.clip(0, 255)).max() < NEAREST
    assert not torch.equal(rgb, to_rgb(planes, YuvLayout()))


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_from_rgb_is_the_formula_for_every_matrix_and_range(matrix, full_range):
    rgb = noise(YuvLayout(model="rgb"), seed=1)
    for depth in (8, 10, 12, 16):
        check_from_rgb(torch.stack(rgb, dim=1), YuvLayout(depth=depth, matrix=matrix, full_range=full_range))


@pytest.mark.parametrize("location", SITES)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS, ids=str)
def test_from_rgb_is_the_formula_for_every_place_of_chroma_and_odd_sizes(subsampling, location):
    for height, width in ((22, 28), (21, 27), (1, 1), (3, 2)):
        rgb = torch.stack(noise(YuvLayout(model="rgb"), height=height, width=width, seed=2), dim=1)
        check_from_rgb(rgb, YuvLayout(subsampling=subsampling, location=location))
        check_from_rgb(rgb.float() / 255, YuvLayout(subsampling=subsampling, location=location, depth=10))


def check_from_rgb(rgb, layout):
    planes = from_rgb(rgb, layout)
    unit = rgb.double().numpy() / (255 if rgb.dtype == torch.uint8 else 1)
    grown = unit
    for axis, ratio in ((3, layout.subsampling[0]), (2, layout.subsampling[1])):  # odd sides repeat their last line
        missing = -unit.shape[axis] % ratio
        grown = np.concatenate([grown, *[grown.take([-1], axis)] * missing], axis=axis)
    real = [real_yuv(unit, layout)[0], *real_yuv(grown, layout)[1:]]
    scale = 2.0 ** (layout.depth - 8)
    for plane, expected in zip(codes(planes, layout), real, strict=True):
        off = np.abs(plane - expected.clip(0, 2**layout.depth - 1)).max()
        assert off < 0.5 + (NEAREST - 0.5) * scale


def test_black_white_and_grey_have_the_codes_of_the_standard():
    ramp = torch.tensor([0, 1, 254, 255], dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 3, 2, 4)
    for depth in (8, 10, 12):
        y, u, v = codes(from_rgb(ramp, YuvLayout(depth=depth)), YuvLayout(depth=depth))
        assert y[0, 0, 0] == 16 << (depth - 8) and y[0, 0, 3] == 235 << (depth - 8)
        assert (u == 128 << (depth - 8)).all() and (v == 128 << (depth - 8)).all()


def test_chroma_beyond_the_codes_is_clipped():
    """Blue beside yellow: the cubic overshoots the largest and the smallest code."""
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    rgb = torch.cat([blue, 255 - blue, blue], dim=-1)
    for depth in (8, 10):
        layout = YuvLayout(depth=depth, full_range=True)
        real = real_yuv(rgb.double().numpy() / 255, layout)[1]
        assert real.min() < 0 and real.max() > 2**depth
        check_from_rgb(rgb, layout)


def test_8_bits_come_back_through_10_bits_without_subsampling():
    rgb = torch.stack(noise(YuvLayout(model="rgb"), seed=3), dim=1)
    for matrix in MATRICES:
        layout = YuvLayout(subsampling=(1, 1), depth=10, matrix=matrix)
        assert torch.equal(to_rgb(from_rgb(rgb, layout), layout), rgb)


def test_tiles_batches_and_strides_change_nothing(monkeypatch):
    for layout in (
        YuvLayout(),
        YuvLayout(depth=10, subsampling=(2, 2), location="topleft"),
        YuvLayout(location="center"),
    ):
        planes = noise(layout, frames=3, height=45, width=39)
        wide = [torch.cat([p, p], dim=-1)[..., : p.shape[-1]] for p in planes]
        rgb = to_rgb(planes, layout)
        back = from_rgb(rgb, layout)
        assert torch.equal(to_rgb(wide, layout), rgb)
        assert torch.equal(torch.cat([to_rgb([p[[t]] for p in planes], layout) for t in range(3)]), rgb)
        for tile in (1, 39 * 8, 39 * 90):
            monkeypatch.setattr(fixed, "CPU_TILE", tile)
            assert torch.equal(to_rgb(planes, layout), rgb)
            assert all(torch.equal(a, b) for a, b in zip(from_rgb(rgb, layout), back, strict=True))
        monkeypatch.undo()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS, ids=str)
def test_a_gpu_gives_the_bits_of_the_cpu(subsampling, depth):
    for full_range, matrix in ((False, "bt709"), (True, "bt601"), (False, "ycgco")):
        layout = YuvLayout(subsampling=subsampling, depth=depth, full_range=full_range, matrix=matrix)
        planes = noise(layout, frames=3, height=181, width=323)
        there = [p.cuda() for p in planes]
        for dtype in (torch.uint8, torch.float32):
            rgb = to_rgb(planes, layout, dtype)
            assert torch.equal(to_rgb(there, layout, dtype).cpu(), rgb)
            pairs = zip(from_rgb(rgb.cuda(), layout), from_rgb(rgb, layout), strict=True)
            assert all(torch.equal(a.cpu(), b) for a, b in pairs)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_columns_split_and_merge(ratio):
    samples = torch.randint(0, 256, (2, 3, 32), dtype=torch.uint8)
    for x in (samples, samples[..., 1 : 1 + 28], samples[:, ::2], samples.to(torch.int32)):
        parts = split(x, ratio)
        assert all(torch.equal(part, x[..., phase::ratio].to(torch.int32)) for phase, part in enumerate(parts))
        for width in (x.shape[-1], x.shape[-1] - 1):
            out = torch.zeros(*x.shape[:-1], width, dtype=torch.uint8)
            merge(parts, out)
            assert torch.equal(out, x[..., :width].to(torch.uint8))


def test_what_does_not_fit_is_refused_with_a_sentence():
    planes = noise(YuvLayout())
    with pytest.raises(ValueError, match="plane 1 is "):
        to_rgb(planes, YuvLayout(subsampling=(2, 1)))
    with pytest.raises(ValueError, match="plane 0 is"):
        to_rgb(planes, YuvLayout(depth=10))
    with pytest.raises(ValueError, match="2 planes, but the layout has 3"):
        to_rgb(planes[:2], YuvLayout())
    with pytest.raises(ValueError, match="int16 or float32"):
        from_rgb(torch.zeros(1, 3, 4, 4, dtype=torch.float64), YuvLayout())
    with pytest.raises(ValueError, match="not for"):
        from_rgb(torch.zeros(1, 3, 4, 4), YuvLayout(interlaced=True))
    for wrong in (
        {"depth": 7},
        {"depth": 12, "shift": 6},
        {"subsampling": (3, 1)},
        {"matrix": "bt1"},
        {"location": "x"},
    ):
        with pytest.raises(ValueError):
            YuvLayout(**wrong)
    assert to_rgb([p[:0] for p in planes], YuvLayout()).shape == (0, 3, 22, 28)


def test_luma_weights_leave_grey_grey():
    for matrix in LUMA_WEIGHTS:
        luma, u, v = rgb_to_yuv(matrix)
        assert sum(luma) == 1 and sum(u) == sum(v) == 0
