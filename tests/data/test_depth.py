"""Laws of depth: words, dithering, tables of HDR, and every codec in every depth and container."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
import torch

from data.colour.curves import hdr_to_sdr, light_to_pq, pq_to_light
from data.colour.path import PixelPath
from data.colour.tone import tone_of_pq
from data.media import Frame, MediaInfo, OutputOptions, alpha_of, encoding, open_media, open_writer, output_path, rgb_of
from data.media.codecs import CODECS, CONTAINERS, DEPTHS, NVENC_FORMATS, TABLE
from data.media.colour import BT2020, DISPLAY_P3, HLG, PQ, Colour, ignored_colour_notes
from data.media.encoding import check_options, choose
from data.media.orientation import UPRIGHT, Orientation
from data.yuv.frames import frame_from, planes_of
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout
from data.yuv.to_rgb import to_rgb
from tests.data.media_samples import audio_packets, even_times, smooth_clip, write_clip

RATE = Fraction(25)
RGB_UNIT = 0.13  # codes, of 12 bits: the rounding of the whole numbers
FFMPEG_NAMES = {"av1": "libdav1d"}  # of what decodes, where it is not the codec's


def words(shape, seed=0):
    """Noise of 16 bits, as torch holds it."""
    values = np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)
    return torch.from_numpy(values.view(np.int16))


def numbers(plane):
    return plane.to(torch.int64) & (0xFF if plane.dtype == torch.uint8 else 0xFFFF)


def gentle(frames=2, height=32, width=48, channels=3):
    """16-bit words [T, C, H, W] of slow ramps, kind to 4:2:0 and to codecs with losses."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    planes = [0.2 + 0.5 * x + 0 * y, 0.25 + 0.5 * y + 0 * x, 0.3 + 0.2 * (x + y), 0.9 - 0.5 * x + 0 * y][:channels]
    return (torch.stack(planes) * 65535).round().to(torch.int32).to(torch.int16).expand(frames, -1, -1, -1).contiguous()


def info_for(path, depth=16, **more):
    return MediaInfo(path, "video", 48, 32, frame_rate=RATE, depth=depth, **more)


@pytest.mark.parametrize("layout", [
    YuvLayout(), YuvLayout(depth=10, matrix="bt2020"), YuvLayout(subsampling=(1, 1), depth=12, full_range=True),
    YuvLayout(model="grey", depth=16), YuvLayout(model="rgb", depth=10), YuvLayout(model="rgb"),
], ids=str)  # fmt: skip
def test_words_floats_and_8_bits_give_the_same_planes(layout):
    deep = words((2, 3, 21, 27))
    floats = numbers(deep).float() / 65535
    assert all(torch.equal(a, b) for a, b in zip(from_rgb(deep, layout), from_rgb(floats, layout), strict=True))
    bytes_of = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 21, 27), dtype=np.uint8))
    stretched = (bytes_of.to(torch.int32) * 257).to(torch.int16)
    for a, b in zip(from_rgb(bytes_of, layout), from_rgb(stretched, layout), strict=True):
        assert (numbers(a) - numbers(b)).abs().max() <= 2 ** max(layout.depth - 14, 0)  # averages have 15 bits


@pytest.mark.parametrize("depth", DEPTHS)
def test_rgb_and_alpha_are_stored_as_they_are(depth):
    deep = words((2, 4, 19, 23))
    layout = YuvLayout(model="rgb", subsampling=(1, 1), depth=depth, alpha=True)
    wanted = numbers(deep).double() / 65535 * (2**depth - 1)
    assert (torch.stack([numbers(p) for p in from_rgb(deep, layout)], 1) - wanted).abs().max() < 0.5 + RGB_UNIT
    yuv = from_rgb(deep, YuvLayout(depth=depth, alpha=True))
    assert len(yuv) == 4 and (numbers(yuv[3]) - wanted[:, 3]).abs().max() < 0.5 + RGB_UNIT


@pytest.mark.parametrize("layout", [YuvLayout(), YuvLayout(model="rgb", subsampling=(1, 1), full_range=True)], ids=str)
def test_dithered_codes_mean_what_lies_between_them(layout, monkeypatch):
    import data.yuv.fixed as fixed

    for part in (0.1, 0.25, 0.5, 0.9):
        code = 100 + part  # of luma, or of a colour
        unit = (code - 16) / 219 if layout.model == "yuv" else code / 255
        grey = torch.full((1, 3, 96, 160), unit)
        plane = from_rgb(grey, layout, dither=True)[0].double()
        assert set(plane.unique().tolist()) == {100.0, 101.0} and abs(float(plane.mean()) - code) < 0.04
        for rows in plane[0].split(8), plane[0].split(8, 1):  # and in every part of a picture
            assert max(abs(float(piece.mean()) - code) for piece in rows) < 0.08
        assert torch.equal(from_rgb(grey, layout)[0].double(), plane.mean().round().expand_as(plane)) or part == 0.5
    noise = words((1, 3, 64, 50))
    whole = from_rgb(noise, layout, dither=True)
    monkeypatch.setattr(fixed, "CPU_TILE", 700)
    assert all(torch.equal(a, b) for a, b in zip(from_rgb(noise, layout, dither=True), whole, strict=True))


def test_black_and_white_need_no_dithering():
    for level in (0.0, 1.0):
        picture = torch.full((1, 3, 32, 32), level)
        for layout in (YuvLayout(), YuvLayout(full_range=True), YuvLayout(model="rgb")):
            for plain, dithered in zip(from_rgb(picture, layout), from_rgb(picture, layout, dither=True), strict=True):
                assert torch.equal(plain, dithered)


@pytest.mark.parametrize("peak", [400, 1000, 4000, 10_000])
@pytest.mark.parametrize("depth", [10, 12])
def test_every_code_of_pq_comes_back_from_the_tone_curve(peak, depth):
    codes = torch.arange(2**depth).view(1, 1, -1)
    path = PixelPath(deep=True, bits=16, curve="pq", peak=peak)
    tone = path.into((codes / (2**depth - 1)).float())
    assert tone.min() == 0 and tone.max() == 1 and (tone.diff() > 0).all()
    back = numbers(path.back(tone * 2 - 1)).double() / 65535 * (2**depth - 1)
    assert (back - codes).abs().max() < 0.25


def test_the_tone_curve_is_the_published_one():
    """BT.2446 method A by hand at three places of its three pieces, and the points of PQ of BT.2408."""
    assert np.allclose(light_to_pq([100, 203, 1000]), [0.508, 0.581, 0.752], atol=5e-4)
    assert np.allclose(pq_to_light(light_to_pq([0, 0.01, 5, 4000])), [0, 0.01, 5, 4000], rtol=1e-6, atol=1e-9)
    assert np.allclose(hdr_to_sdr(np.array([0, 1.0]), 1000), [0, 1], atol=1e-9)
    seen = np.array([0.5, 0.9, 0.995])
    hdr, sdr = 1 + 32 * 0.1 ** (1 / 2.4), 1 + 32 * 0.01 ** (1 / 2.4)
    bent = np.array([1.0770 * 0.5, -1.1510 * 0.81 + 2.7811 * 0.9 - 0.6302, 0.5 * 0.995 + 0.5])
    assert np.allclose(hdr_to_sdr((hdr**seen - 1) / (hdr - 1), 1000), (sdr**bent - 1) / (sdr - 1), atol=1e-6)
    assert abs(tone_of_pq(light_to_pq(np.array([1000.0])), 1000)[0] - 0.95) < 1e-6


def test_hdr_as_sdr_keeps_grey_grey_and_in_order():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, -1).expand(1, 3, 1, -1).contiguous()
    for curve in ("pq to sdr", "hlg to sdr"):
        sdr = PixelPath(deep=True, curve=curve).into(ramp)
        assert (sdr[:, 0] - sdr[:, 2]).abs().max() < 1e-3 and (sdr.diff() >= 0).all()
        assert sdr.min() >= 0 and sdr.max() <= 1 and sdr[..., 48].min() > 0.6  # a code of .76 is bright in both


def test_every_codec_depth_and_container_is_written_as_asked_or_refused(tmp_path):
    clip, written = gentle(frames=4), 0
    for codec, depth, container in product(CODECS[1:-1], DEPTHS, CONTAINERS):
        options = OutputOptions(codec, depth, container=container)
        path = tmp_path / f"{codec}_{depth}.{container}"
        goes = depth in TABLE[codec].depths and container in TABLE[codec].containers
        if not goes:
            with pytest.raises(ValueError, match=f"{TABLE[codec].name} (has|goes into)"):
                check_options(options)
            continue
        with open_writer(path, info_for(tmp_path / "in.mov"), (32, 48), options=options) as writer:
            writer.write(clip, [n / RATE for n in range(len(clip))])
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            assert stream.codec_context.name == FFMPEG_NAMES.get(codec, codec)
            assert stream.codec_context.pix_fmt == TABLE[codec].formats[depth]
        with open_media(path) as reader:
            assert (reader.info.depth, reader.info.colour) == (depth, Colour())
            frames = list(reader)
        error = (rgb_of(frames, dtype=torch.float32) - numbers(clip).float() / 65535).abs()
        assert [frame.time for frame in frames] == even_times(4)
        assert error.max() < (1.01 / 2**depth if codec == "ffv1" else 0.03)
        written += 1
    assert written == 3 * 2 + 3 * 3 + 2 + 2 * 2 + 2 + 4


@pytest.mark.parametrize("codec", ["hevc", "vp9", "av1", "prores", "ffv1"])
def test_sound_and_uneven_times_go_along_with_every_codec(tmp_path, codec):
    times = [Fraction(n, 25) for n in (0, 1, 3, 4, 7, 8, 9, 12)]
    source = write_clip(tmp_path / "in.mp4", smooth_clip(8, 32, 48), times, audio="aac")
    options = OutputOptions(codec)
    with open_media(source) as reader:
        info, pixels = reader.info, rgb_of(list(reader))
    path = output_path(source, tmp_path / "out", info, containers=choose(info, options).containers)
    with open_writer(path, info, (32, 48), options=options) as writer:
        writer.write(pixels, times)
    with open_media(path) as reader:
        found = [frame.time for frame in reader]
        assert reader.info.has_audio
    assert [time - found[0] for time in found] == times  # Matroska counts from the sound's first sample
    assert audio_packets(path) == audio_packets(source)


@pytest.mark.parametrize("options,complaint", [
    (OutputOptions("prores", container="mp4"), "ProRes goes into mov or mkv, not into mp4"),
    (OutputOptions("h264", 16), "H.264 has 8 or 10 bits, not 16; 16 bits have --codec ffv1 or png"),
    (OutputOptions("h264", 8, "yuv420p10le"), "has 10 bits and --bit_depth asks for 8"),
    (OutputOptions("av1", pixel_format="yuv444p"), r"AV1 .* takes yuv420p, yuv420p10le here"),
    (OutputOptions(pixel_format="yuv999p"), "'yuv999p' is not known"),
    (OutputOptions("ffv1", crf=10), "FFV1 has no such number"),
    (OutputOptions("hevc", crf=60), "between 0 and 51 for HEVC"),
    (OutputOptions("prores", encoder="nvenc"), "makes h264, hevc or av1, no ProRes"),
    (OutputOptions(bit_depth=16, container="mp4"), "FFV1 goes into mkv, not into mp4"),
    (OutputOptions("png", container="mkv"), "PNG frames lie in a folder"),
], ids=str)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_what_does(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_options(options)


def test_an_encoder_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="no libx265, which makes HEVC; it has h264 or ffv1"):
        check_options(OutputOptions("hevc"), available={"libx264", "ffv1"})
    with pytest.raises(ValueError, match=r"no hevc_nvenc, .* it has h264 .--encoder nvenc."):
        check_options(OutputOptions("hevc", encoder="nvenc"), available={"libx264", "h264_nvenc"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be an encoder on this GPU")
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_an_encoder_of_a_gpu_that_is_not_there_is_a_sentence(codec):
    if TABLE[codec].encoders["nvenc"] not in av.codecs_available:
        pytest.skip("this FFmpeg is built without it")
    with pytest.raises(ValueError, match=r"_nvenc does not start on this machine .* needs an NVIDIA GPU .* on the CPU"):
        check_options(OutputOptions(codec, encoder="nvenc"))


@pytest.mark.parametrize(("planar", "stored"), [(None, "yuv420p"), *NVENC_FORMATS.items()])
def test_encoders_of_gpus_get_every_code_in_the_high_bits(monkeypatch, planar, stored):
    """What is handed to one, without one: `choose` with an encoder that is said to be there, and its frame."""
    monkeypatch.setattr(encoding, "check_format", lambda *_: None)
    made = choose(
        info_for("in.mov", depth=8), OutputOptions("hevc", None, planar, encoder="nvenc"), available={"hevc_nvenc"}
    )
    assert (made.encoder, made.stored, made.layout.depth) == ("hevc_nvenc", stored, 10 if planar else 8)
    planes = from_rgb(words((1, 3, 32, 48)), made.layout)
    frame = frame_from([plane[0] for plane in planes], made.layout, made.stored)
    assert frame.format.name == stored
    found, layout = planes_of(frame)
    for plane, given in zip(found, planes, strict=True):
        codes = numbers(plane) >> (16 - 10 if planar else 0)
        assert torch.equal(codes, numbers(given))
    assert layout.matrix == "bt709" and not layout.full_range


def test_what_a_file_gets_when_nothing_is_asked(tmp_path):
    plain = info_for(tmp_path, depth=8)
    kinds = {
        plain: ("h264", 8, False), replace(plain, depth=10): ("hevc", 10, False),
        replace(plain, depth=16): ("hevc", 10, False), replace(plain, colour=Colour(BT2020, PQ)): ("hevc", 10, False),
    }  # fmt: skip
    for info, wanted in kinds.items():
        made = choose(info, OutputOptions(), info.colour)
        assert (made.codec, made.layout.depth, made.dither) == wanted and made.colour == info.colour
    assert choose(replace(plain, depth=10), OutputOptions(bit_depth=8)).dither
    hdr = replace(plain, depth=10, colour=Colour(BT2020, PQ))
    sdr = choose(hdr, OutputOptions(hdr="sdr"), hdr.colour)
    assert (sdr.codec, sdr.colour, sdr.dither, sdr.layout.matrix) == ("h264", Colour(), True, "bt709")
    with pytest.raises(ValueError, match="of 8 bits cannot hold HDR; use --bit_depth 10"):
        choose(hdr, OutputOptions(bit_depth=8), hdr.colour)


@pytest.mark.parametrize("colour", [
    Colour(DISPLAY_P3, 13), Colour(BT2020, 14), Colour(BT2020, 1), Colour(5, 1), Colour(BT2020, HLG),
    Colour(BT2020, PQ, (13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50), (900, 300)),
], ids=lambda colour: colour.name)  # fmt: skip
@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_colours_are_tagged_as_the_source_has_them(tmp_path, colour, codec):
    info, path = info_for(tmp_path / "in.mov", depth=10, colour=colour), tmp_path / "out.mp4"
    with open_writer(path, info, (32, 48), options=OutputOptions(codec)) as writer:
        writer.write(gentle(), [0, 1 / RATE])
    with open_media(path) as reader:
        (frame, _) = reader
        assert reader.info.colour == colour and frame.layout.matrix == ("bt2020" if colour.primaries == 9 else "bt709")
    error = rgb_of([frame], dtype=torch.float32) - numbers(gentle()[:1]).float() / 65535
    assert error.abs().max() < 0.02


@pytest.mark.parametrize("options", [
    OutputOptions("ffv1"), OutputOptions("ffv1", 8), OutputOptions("prores"), OutputOptions("vp9"),
    OutputOptions("vp9", container="mkv"),
], ids=str)  # fmt: skip
def test_alpha_of_clips_stays_where_the_codec_has_it(tmp_path, options):
    clip = gentle(channels=4)
    info = info_for(tmp_path / "in.mov", transparent=True)
    path = output_path("in.mov", tmp_path, info, containers=choose(info, options).containers)
    with open_writer(path, info, (32, 48), options=options) as writer:
        writer.write(clip, [0, 1 / RATE])
    with open_media(path, alpha="keep") as reader:
        assert reader.info.transparent
        frames = list(reader)
    wanted = numbers(clip).float() / 65535
    assert (alpha_of(frames) - wanted[:, 3:]).abs().max() < 0.01
    assert (rgb_of(frames, dtype=torch.float32) - wanted[:, :3]).abs().max() < 0.03
    with open_media(path) as reader:
        over = rgb_of(list(reader), dtype=torch.float32)
        assert not reader.info.transparent and "laid over white" in " ".join(reader.notes)
    assert (over - (wanted[:, :3] * wanted[:, 3:] + 1 - wanted[:, 3:])).abs().max() < 0.04


def test_webm_alone_means_vp9_of_8_bits(tmp_path):
    plain, webm = info_for(tmp_path, depth=8), OutputOptions(container="webm")
    for info in (plain, replace(plain, depth=10)):
        made = choose(info, webm, info.colour)
        assert (made.codec, made.layout.depth, made.dither) == ("vp9", 8, info.depth > 8)
    hdr = replace(plain, depth=10, colour=Colour(BT2020, PQ))
    with pytest.raises(ValueError, match="VP9 of 8 bits cannot hold HDR"):
        choose(hdr, webm, hdr.colour)
    for more in (OutputOptions("h264", container="webm"), OutputOptions(bit_depth=10, container="webm")):
        with pytest.raises(ValueError, match="not into webm, which takes --codec vp9"):
            check_options(more)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_folder_of_16_bit_pngs_holds_every_bit(tmp_path, channels):
    clip = words((3, channels, 16, 24))
    if channels == 4:
        clip[:, 3] |= 1  # nothing hidden: what is hidden is filled when it is read
    info = replace(info_for(tmp_path / "in.mov"), transparent=channels == 4, colour=Colour(BT2020, PQ))
    with open_writer(tmp_path / "out", info, (16, 24), frames_out="png") as writer:
        writer.write(clip, [0, 1, 2])
    with open_media(tmp_path / "out", alpha="keep") as reader:
        assert (reader.info.depth, reader.info.colour, reader.info.transparent) == (16, info.colour, channels == 4)
        for frame, picture in zip(reader, clip, strict=True):
            assert torch.equal(torch.cat([plane[0] for plane in frame.planes]), picture)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_16_bits_keep_every_bit(tmp_path, suffix, channels):
    import cv2

    values = np.random.default_rng(0).integers(1, 65536, (24, 33, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"in{suffix}"), values.squeeze())
    with open_media(tmp_path / f"in{suffix}") as reader:
        (frame,) = reader
        info = reader.info
    assert info.depth == 16
    with open_writer(tmp_path / f"out{suffix}", info, (24, 33)) as writer:
        writer.write(frame.planes[0], [0])
    assert np.array_equal(cv2.imread(str(tmp_path / f"out{suffix}"), cv2.IMREAD_UNCHANGED), values.squeeze())


def test_frames_of_words_and_floats_are_read_as_both():
    deep = words((3, 8, 8))
    unit = numbers(deep).float() / 65535
    for frame in (Frame.of_rgb(deep, Fraction(0)), Frame.of_rgb(unit, Fraction(0))):
        assert (rgb_of([frame], dtype=torch.float32)[0] - unit).abs().max() < 1e-7
        assert torch.equal(frame.pixels, (unit * 255).round().to(torch.uint8))


def test_10_bits_come_back_through_12_bits_of_rgb():
    planes = tuple(words((1, 8, 8), seed) & 1023 for seed in range(3))
    layout = YuvLayout(subsampling=(1, 1), depth=10, full_range=True, matrix="bt2020")
    rgb = to_rgb(planes, layout, torch.float32)
    inside = (rgb > 0).all(1) & (rgb < 1).all(1)
    for plane, back in zip(planes, from_rgb(rgb, layout), strict=True):
        assert torch.equal(plane[inside], back[inside])


@pytest.mark.parametrize("turn", [UPRIGHT, Orientation(True, False, True)], ids=str)
def test_frames_without_alpha_among_others_are_opaque(turn):
    layout = YuvLayout(alpha=True)
    planes = (*(torch.zeros(1, *size, dtype=torch.uint8) for size in ((8, 12), (4, 6), (4, 6))),)
    half = torch.full((1, 8, 12), 128, dtype=torch.uint8)
    frames = [
        Frame((*planes, half), Fraction(0), layout, turn), Frame(planes, Fraction(1), YuvLayout(), turn),
        Frame.of_rgb(torch.zeros(3, *((12, 8) if turn.transpose else (8, 12)), dtype=torch.uint8), Fraction(2)),
    ]  # fmt: skip
    alpha = alpha_of(frames)
    assert alpha.shape == (3, 1, *((12, 8) if turn.transpose else (8, 12)))
    assert torch.allclose(alpha[0], torch.tensor(128 / 255)) and (alpha[1:] == 1).all()
    assert rgb_of(frames).shape[0] == 3 and alpha_of(frames[1:]) is None


def test_dynamic_metadata_and_unknown_matrices_are_told():
    frame = av.VideoFrame(16, 16, "yuv420p10le")
    assert ignored_colour_notes(frame) == []
    frame.colorspace = 14  # ICtCp
    assert ignored_colour_notes(frame) == ["its matrix (number 14 of ITU-T H.273) is not known, colours are guessed"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_words_dithering_and_tone_curves_of_the_cpu():
    deep = words((2, 4, 45, 39))
    for layout in (YuvLayout(depth=10, alpha=True), YuvLayout(model="rgb", subsampling=(1, 1), depth=12, alpha=True)):
        for dither in (False, True):
            pairs = zip(from_rgb(deep.cuda(), layout, dither), from_rgb(deep, layout, dither), strict=True)
            assert all(torch.equal(a.cpu(), b) for a, b in pairs)
    unit = torch.rand(1, 3, 32, 32)
    path = PixelPath(deep=True, bits=16, curve="pq")
    tone = path.into(unit)
    assert torch.equal(path.into(unit.cuda()).cpu(), tone)
    assert torch.equal(path.back(tone.cuda() * 2 - 1).cpu(), path.back(tone * 2 - 1))
