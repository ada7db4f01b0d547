"""Laws of YUV and RGB: the formula in real numbers, the same bits from every tile and device, and what libav makes of it."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

import data.yuv.fixed as fixed
from data.media.colour import from_rgb as swscale_from_rgb
from data.media.colour import to_rgb as swscale_to_rgb
from data.pixel_formats import EXACT
from data.yuv.columns import merge, split
from data.yuv.frames import chroma_location, format_of, frame_from, planes_of, stacked
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import LUMA_WEIGHTS, MATRIX_OF_NUMBER, SITES, YuvLayout, rgb_to_yuv, yuv_to_rgb
from data.yuv.to_rgb import to_rgb
from tests.data.media_samples import smooth_clip

MATRICES = sorted(set(MATRIX_OF_NUMBER.values()))
SUBSAMPLINGS = [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (4, 4)]
NEAREST = 0.53  # levels: half of one, and the rounding of the whole numbers


def noise(layout, frames=2, height=22, width=28, seed=0):
    """Planes of every code that the layout's samples can hold."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(height, width)] + [layout.chroma_size(height, width) if layout.model == "yuv" else (height, width)] * 2
    planes = [
        torch.randint(0, 2**layout.depth, (frames, *size), generator=generator, dtype=torch.int32)
        for size in sizes[: layout.colour_planes]
    ]
    words = [plane << layout.shift for plane in planes]
    return tuple(w.to(torch.uint8) if layout.depth == 8 else w.to(torch.int16) for w in words)


def codes(planes, layout):
    """The numbers in the words, float64."""
    wide = [p.numpy().view(np.uint8 if layout.depth == 8 else np.uint16).astype(np.int64) for p in planes]
    return [(p >> layout.shift).astype(np.float64) for p in wide]


def cubic(x):
    """Keys' kernel with a = -0.6 in real numbers."""
    x = np.abs(x)
    near = 1.4 * x**3 - 2.4 * x**2 + 1
    far = -0.6 * x**3 + 3 * x**2 - 4.8 * x + 2.4
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(x, axis, count, place_of, widest):
    """Samples at real places along an axis; outside of the picture the last sample inside counts."""
    out, last = [], x.shape[axis] - 1
    for k in range(count):
        place = place_of(k)
        n = np.arange(int(np.floor(place)) - 2 * widest, int(np.floor(place)) + 2 * widest + 2)
        weights = cubic((n - place) / widest) / widest
        out.append(np.tensordot(x.take(np.clip(n, 0, last), axis), weights, axes=([axis], [0])))
    return np.stack(out, axis)


def real_rgb(planes, layout, field=None):
    """[T, 3, H, W] float64 in levels of 255: the formula of BT.709 and its kin in real numbers, not clipped."""
    y, *chroma = codes(planes, layout)
    (black, steps), (middle, chroma_steps) = layout.luma_range(), layout.chroma_range()
    y = (y - black) / steps
    if layout.model != "yuv":
        colours = [y, *((c - black) / steps for c in chroma)] if chroma else [y] * 3
        return 255 * np.stack(colours, axis=1)
    (across, down), (x_site, y_site) = layout.subsampling, map(float, layout.site())
    y_site = y_site if field is None else (y_site + field) / 2
    full = []
    for c in chroma:
        c = (c - middle) / chroma_steps
        c = resampled(c, 1, y.shape[1], lambda k: (k - y_site) / down, 1) if down > 1 else c
        full.append(resampled(c, 2, y.shape[2], lambda k: (k - x_site) / across, 1) if across > 1 else c)
    rows = [(float(u), float(v)) for u, v in yuv_to_rgb(layout.matrix)]
    return 255 * np.stack([y + u * full[0] + v * full[1] for u, v in rows], axis=1)


def real_yuv(rgb, layout):
    """Y, U, V in codes, float64, not clipped, of [T, 3, H, W] in [0, 1]."""
    (across, down), (x_site, y_site) = layout.subsampling, map(float, layout.site())
    height, width = layout.chroma_size(*rgb.shape[-2:])
    (black, steps), (middle, chroma_steps) = layout.luma_range(), layout.chroma_range()
    matrix = np.array([[float(weight) for weight in row] for row in rgb_to_yuv(layout.matrix)])
    y, u, v = (np.einsum("c,tchw->thw", row, rgb) for row in matrix)
    small = []
    for c in (u, v):
        c = resampled(c, 1, height, lambda k: down * k + y_site, down) if down > 1 else c
        small.append(resampled(c, 2, width, lambda k: across * k + x_site, across) if across > 1 else c)
    return [black + steps * y, *(middle + chroma_steps * c for c in small)]


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


def test_interlaced_chroma_belongs_to_fields():
    layout = YuvLayout(interlaced=True)
    planes = noise(layout, height=20)
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


# What libav has


def video_frame(rgb, name, matrix=5, full_range=False):
    """A picture [3, H, W] in a pixel format, made by libswscale."""
    frame = av.VideoFrame.from_ndarray(rgb.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    frame = frame.reformat(
        format=name, dst_colorspace=matrix, dst_color_range=2 if full_range else 1, interpolation=EXACT
    )
    return frame


NATIVE = (
    "yuv420p yuvj420p yuv422p yuv444p yuv440p yuv411p yuv410p yuva420p yuv420p9le yuv420p10le yuv422p12le yuv444p16le "
    "yuva444p10le nv12 nv21 nv16 nv24 p010le p210le p016le p412le gray gray10le gray16le ya8 ya16le gbrp gbrp10le gbrap "
    "gbrp16le rgb24 bgr24 rgba bgra argb abgr 0rgb bgr0 rgb48le bgr48le rgba64le bgra64le"
)
REPACKED = "yuv420p10be gray16be monob monow gbrpf32le rgb565le rgb8 yuyv422 uyvy422 y210le xv30le vuya x2rgb10le xyz12le p010be"


@pytest.mark.parametrize("name", [*NATIVE.split(), *REPACKED.split()])
def test_libswscale_differs_by_a_level_at_most(name):
    for full_range in (False, True):
        frame = video_frame(smooth_clip(1, 48, 64)[0], name, full_range=full_range)
        planes, layout = planes_of(frame)
        ours, theirs = to_rgb(planes, layout)[0].int(), swscale_to_rgb(frame, 64, 48).int()
        assert (ours - theirs).abs().max() <= 1
        assert all(p.dtype == layout.dtype for p in planes) and len(planes) == layout.colour_planes + layout.alpha


@pytest.mark.parametrize("number", [0, 1, 2, 4, 5, 6, 7, 9, 10])
def test_libswscale_agrees_on_every_matrix_that_it_has(number):
    frame = video_frame(smooth_clip(1, 48, 64)[0], "yuv444p")
    frame.colorspace = number
    assert (to_rgb(*planes_of(frame))[0].int() - swscale_to_rgb(frame, 64, 48).int()).abs().max() <= 1


def test_ycgco_that_libswscale_refuses_and_unknown_matrices_are_read():
    rgb = smooth_clip(1, 48, 64)
    layout = YuvLayout(subsampling=(1, 1), matrix="ycgco")
    frame = frame_from([p[0] for p in from_rgb(rgb, layout)], layout)
    with pytest.raises(OSError):
        swscale_to_rgb(frame, 64, 48)
    planes, found = planes_of(frame)
    assert found == layout and (to_rgb(planes, found).int() - rgb.int()).abs().max() <= 2
    subsampled = video_frame(rgb[0], "yuyv422")
    subsampled.colorspace = 12
    assert planes_of(subsampled)[1].matrix == "bt601"


def test_noise_is_nearer_to_the_formula_than_libswscale_has_it():
    frame = frame_from([p[0] for p in noise(YuvLayout(), height=64, width=96)], YuvLayout())
    planes, layout = planes_of(frame)
    real = real_rgb(planes, layout).clip(0, 255)[0]
    ours = np.abs(to_rgb(planes, layout)[0].numpy() - real)
    theirs = np.abs(swscale_to_rgb(frame, 96, 64).numpy() - real)
    assert ours.max() < NEAREST < theirs.max() and ours.mean() < theirs.mean()


def test_writing_differs_from_libswscale_by_a_level_at_most():
    for rgb in (smooth_clip(1, 48, 64), torch.stack(noise(YuvLayout(model="rgb"), 1, 48, 64), dim=1)):
        theirs = planes_of(swscale_from_rgb(rgb[0]))[0]
        ours = from_rgb(rgb, YuvLayout(location="center"))
        real = real_yuv(rgb.double().numpy() / 255, YuvLayout(location="center"))
        for a, b, exact in zip(ours, theirs, real, strict=True):
            assert (a.int() - b.int()).abs().max() <= 1
            exact = exact.clip(0, 255)
            assert np.abs(a.numpy() - exact).max() < NEAREST and (a != b).float().mean() < 0.05


def h264_frame(rgb, options=None, layout=YuvLayout()):  # noqa: B008 (frozen)
    """A picture through lossless H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = rgb.shape[-1], rgb.shape[-2], format_of(layout)
    encoder.time_base, encoder.framerate = Fraction(1, 25), 25
    encoder.colorspace, encoder.color_range = 1, 1
    encoder.options = {"qp": "0", "x264-params": options or "keyint=1"}
    frame = frame_from([p[0] for p in from_rgb(rgb[None], layout)], layout)
    packets = encoder.encode(frame) + encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    frames = [f for packet in packets for f in decoder.decode(packet)] + decoder.decode(None)
    return frames[0]


@pytest.mark.parametrize("number,location", enumerate(["left", "center", "topleft", "top", "bottomleft", "bottom"]))
@pytest.mark.parametrize("field_order", ["", ":tff=1"], ids=["progressive", "interlaced"])
def test_the_place_of_chroma_is_found(number, location, field_order):
    frame = h264_frame(smooth_clip(1, 48, 64)[0], f"chromaloc={number}{field_order}")
    before = frame.to_ndarray().copy()
    assert chroma_location(frame) == location
    planes, layout = planes_of(frame)
    assert layout.location == location and layout.interlaced == bool(field_order)
    assert np.array_equal(frame.to_ndarray(), before)
    assert (to_rgb(planes, layout)[0].int() - swscale_to_rgb(frame, 64, 48).int()).abs().max() <= 1


def test_a_frame_that_names_no_place_has_it_in_the_centre_and_small_frames_are_not_written_to():
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 77
    assert chroma_location(frame) == "center" and (frame.to_ndarray() == 77).all()


@pytest.mark.parametrize("location,exact", [("left", True), ("center", False)])
def test_what_h264_calls_left_is_what_a_reader_finds_there(location, exact):
    """Colour that rises by 6 levels a pixel: written for other places than it is read from, it is 3 levels off."""
    ramp = torch.arange(32).mul(6).add(30).to(torch.uint8).view(1, 1, 32).expand(1, 24, 32)
    rgb = torch.cat([ramp, 255 - ramp, 255 - ramp])
    frame = h264_frame(rgb, layout=YuvLayout(location=location))
    off = (to_rgb(*planes_of(frame))[0].int() - rgb.int()).abs()[..., 4:-4]
    assert (off.max() <= 1) if exact else (off.max() >= 3)


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("size", [(48, 64), (31, 45), (1, 1)], ids=str)
def test_planes_go_into_a_frame_and_come_back(depth, size):
    layout = YuvLayout(depth=depth, full_range=True, matrix="bt2020", location="center")
    planes = noise(layout, 1, *size)
    frame = frame_from([p[0] for p in planes], layout)
    again, found = planes_of(frame)
    assert found == layout and all(torch.equal(a, b) for a, b in zip(planes, again, strict=True))
    clip = stacked([again, planes])
    assert all(c.shape == (2, *p.shape[1:]) and torch.equal(c[1:], p) for c, p in zip(clip, planes, strict=True))


def test_pictures_stored_upside_down(tmp_path):
    rgb = smooth_clip(1, 24, 32)[0]
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr24"
        container.mux(stream.encode(video_frame(rgb, "bgr24")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.avi")) as container:
        frame = next(container.decode(video=0))
    assert torch.equal(to_rgb(*planes_of(frame))[0], rgb)


def test_palettes_and_alpha():
    frame = av.VideoFrame(8, 4, "pal8")
    np.frombuffer(frame.planes[0], np.uint8)[:] = 3
    np.frombuffer(frame.planes[1], np.uint8).reshape(256, 4)[3] = (30, 20, 10, 128)  # B G R A
    planes, layout = planes_of(frame)
    assert layout.alpha and (planes[3] == 128).all()
    assert torch.equal(to_rgb(planes, layout)[0, :, 0, 0], torch.tensor([10, 20, 30], dtype=torch.uint8))


def test_what_does_not_fit_is_refused_with_a_sentence():
    planes = noise(YuvLayout())
    with pytest.raises(ValueError, match="plane 1 is torch.uint8"):
        to_rgb(planes, YuvLayout(subsampling=(2, 1)))
    with pytest.raises(ValueError, match="plane 0 is"):
        to_rgb(planes, YuvLayout(depth=10))
    with pytest.raises(ValueError, match="2 planes, but the layout has 3"):
        to_rgb(planes[:2], YuvLayout())
    with pytest.raises(ValueError, match="uint8 or float32"):
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
