"""Laws of frames: libav's formats as planes and back, and how far libswscale's colours are from the exact ones."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

from data.pixel_formats import EXACT
from data.yuv.frames import chroma_location, format_of, frame_from, planes_of, scaled_to, stacked
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout
from data.yuv.to_rgb import to_rgb
from tests.data.media_samples import smooth_clip
from tests.data.swscale import from_rgb as swscale_from_rgb
from tests.data.swscale import to_rgb as swscale_to_rgb
from tests.data.yuv_formula import NEAREST, noise, real_rgb, real_yuv


def video_frame(rgb, name, matrix=5, full_range=False):
    """A picture [3, H, W] in a pixel format, made by libswscale."""
    frame = av.VideoFrame.from_ndarray(rgb.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    frame = frame.reformat(
        format=name, dst_colorspace=matrix, dst_color_range=2 if full_range else 1, interpolation=EXACT
    )
    return frame


NATIVE = (
    "yuv420p yuvj420p yuv422p yuv444p yuv440p yuv411p yuv410p yuva420p yuv420p9le yuv420p10le yuv422p12le "
    "yuv444p16le yuva444p10le nv12 nv21 nv16 nv24 p010le p210le p016le p412le gray gray10le gray16le ya8 ya16le gbrp "
    "gbrp10le gbrap gbrp16le rgb24 bgr24 rgba bgra argb abgr 0rgb bgr0 rgb48le bgr48le rgba64le bgra64le"
)
REPACKED = (
    "yuv420p10be gray16be monob monow gbrpf32le rgb565le rgb8 yuyv422 uyvy422 y210le xv30le vuya x2rgb10le xyz12le "
    "p010be"
)


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


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "nv12", "bgr24"])
def test_pictures_stored_upside_down(name):
    frame = video_frame(smooth_clip(1, 24, 32)[0], name)
    graph = Graph()
    source = graph.add_buffer(width=32, height=24, format=name, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("vflip"), graph.add("buffersink")).configure()
    frame.time_base = Fraction(1, 25)
    graph.push(frame)
    flipped = graph.vpull()
    assert flipped.planes[0].line_size < 0
    planes, _ = planes_of(flipped)
    assert all(torch.equal(a.flip(1), b) for a, b in zip(planes_of(frame)[0], planes, strict=True))


def test_palettes_and_alpha():
    frame = av.VideoFrame(8, 4, "pal8")
    np.frombuffer(frame.planes[0], np.uint8)[:] = 3
    np.frombuffer(frame.planes[1], np.uint8).reshape(256, 4)[3] = (30, 20, 10, 128)  # B G R A
    planes, layout = planes_of(frame)
    assert layout.alpha and (planes[3] == 128).all()
    assert torch.equal(to_rgb(planes, layout)[0, :, 0, 0], torch.tensor([10, 20, 30], dtype=torch.uint8))


def test_a_frame_of_another_size_is_scaled():
    for name in ("yuv420p", "yuyv422", "pal8"):
        frame = av.VideoFrame(16, 8, name) if name == "pal8" else video_frame(smooth_clip(1, 24, 32)[0], name)
        assert scaled_to(frame, frame.width, frame.height) is frame
        assert to_rgb(*planes_of(scaled_to(frame, 40, 30))).shape == (1, 3, 30, 40)


def test_odd_sizes_are_cut_from_even_ones_and_not_stretched():
    """31 columns have the chroma of 32, so they have its colours; libswscale stretches chroma over the cut picture."""
    even = video_frame(smooth_clip(1, 24, 32)[0], "yuv420p")
    planes, layout = planes_of(even)
    cut = (planes[0][:, :23, :31], *planes[1:])
    rgb = to_rgb(cut, layout)
    assert torch.equal(rgb, to_rgb(planes, layout)[..., :23, :31])
    exact = swscale_to_rgb(even, 32, 24)[:, :23, :31].int()
    stretched = swscale_to_rgb(frame_from([p[0] for p in cut], layout), 31, 23).int()
    assert (rgb[0].int() - exact).abs().max() <= 1 < (stretched - exact).abs().max()
