"""Laws of frames as planes: what a decoder gave, its RGB on any device, and planes back into a file."""

import os
from dataclasses import replace
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data.media import Frame, MediaInfo, OutputOptions, encoder, open_media, open_writer, rgb_of
from data.media.orientation import Orientation
from data.yuv.frames import planes_of, scaled_to
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout
from data.yuv.to_rgb import to_rgb
from tests.data.media_samples import even_times, smooth_clip, write_clip
from tests.data.yuv_formula import noise

RGB = YuvLayout(model="rgb", subsampling=(1, 1), full_range=True)
LAYOUTS = (
    YuvLayout(),
    YuvLayout(matrix="bt601", full_range=True, location="center"),
    YuvLayout(subsampling=(2, 1), depth=10),
    YuvLayout(depth=12, matrix="bt2020", interlaced=True),
    YuvLayout(model="grey", subsampling=(1, 1), full_range=True),
    RGB,
)
TURNS = [Orientation(turn, x, y) for turn in (False, True) for x in (False, True) for y in (False, True)]


def frames_of(layout, orientation=Orientation(False, False, False), count=3):  # noqa: B008 (frozen)
    """Frames of noise, 18x34 as displayed."""
    height, width = (34, 18) if orientation.transpose else (18, 34)
    planes = noise(layout, frames=count, height=height, width=width)
    return [Frame(tuple(p[n : n + 1] for p in planes), Fraction(n), layout, orientation) for n in range(count)]


def mixed_frames():
    """A clip whose layout and orientation change in mid stream, and back."""
    turned = frames_of(LAYOUTS[0], TURNS[5])
    pictures = [Frame.of_rgb(torch.randint(0, 256, (3, 18, 34), dtype=torch.uint8), Fraction(n)) for n in range(2)]
    return [*chain(*map(frames_of, LAYOUTS)), *turned, *pictures, *frames_of(LAYOUTS[0])]


def test_together_frames_are_what_they_are_one_by_one():
    frames = mixed_frames()
    rgb = rgb_of(frames)
    assert rgb.dtype == torch.uint8 and torch.equal(rgb, torch.stack([frame.pixels for frame in frames]))
    for frame, pixels in zip(frames, rgb, strict=True):
        wanted = to_rgb(frame.planes, frame.layout)[0] if frame.layout else frame.planes[0][0]
        assert torch.equal(pixels, frame.orientation.apply(wanted))
    with pytest.raises(ValueError, match="no frame"):
        rgb_of([])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_gpu_gives_the_pixels_of_the_cpu(dtype):
    frames = mixed_frames()
    assert torch.equal(rgb_of(frames, "cuda", dtype).cpu(), rgb_of(frames, "cpu", dtype))


@pytest.mark.parametrize("orientation", TURNS, ids=str)
def test_planes_turn_as_pixels_do(orientation):
    frames = frames_of(LAYOUTS[0], orientation)
    stored = torch.cat([to_rgb(frame.planes, frame.layout) for frame in frames])
    assert torch.equal(rgb_of(frames), torch.stack([orientation.apply(pixels) for pixels in stored]))
    assert rgb_of(frames).shape == (3, 3, 18, 34)


def test_float_pixels_hold_more_than_8_bits():
    layout = YuvLayout(subsampling=(1, 1), depth=10, full_range=True)
    ramp = torch.arange(1024, dtype=torch.int16).view(1, 32, 32)
    no_colour = torch.full_like(ramp, 512)
    rgb = rgb_of([Frame((ramp, no_colour, no_colour), Fraction(0), layout)], dtype=torch.float32)
    assert (rgb - ramp / 1023).abs().max() < 1e-4 and len(rgb[0, 0].unique()) == 1024
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    planes = tuple(pixels[:, None])
    picture = rgb_of([Frame.of_rgb(pixels, Fraction(0))], dtype=torch.float32)
    assert torch.equal(picture, rgb_of([Frame(planes, Fraction(0), RGB)], dtype=torch.float32))
    assert torch.equal(picture.mul(255).round()[0], pixels.float())


@pytest.mark.parametrize("pix_fmt,depth", [("yuv420p", 8), ("yuv422p10le", 10)])
def test_a_reader_gives_the_decoders_planes(tmp_path, pix_fmt, depth):
    path = write_clip(tmp_path / "in.mkv", smooth_clip(5, 48, 64), even_times(5), pix_fmt=pix_fmt, matrix=1)
    with open_media(path) as reader:
        frames = list(reader)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    for frame, wanted in zip(frames, decoded, strict=True):
        assert frame.layout.depth == depth and len(frame.planes) == 3
        for plane, memory in zip(frame.planes, wanted.planes, strict=True):
            samples = np.frombuffer(memory, np.uint8 if depth == 8 else np.int16).reshape(memory.height, -1)
            assert np.array_equal(plane[0].numpy(), samples[:, : memory.width])
    samples = sum(p.numel() * p.element_size() for p in frames[0].planes)
    assert samples <= frames[0].nbytes < 3 * samples  # rows are padded
    assert frames[0].pixels.shape == (3, 48, 64)


def test_frames_outlive_the_file_and_the_decoder(tmp_path):
    """Their memory is the decoder's: all of a clip's are kept, and none is overwritten by later ones."""
    clip = smooth_clip(40, 48, 64)
    path = write_clip(tmp_path / "in.mp4", clip, even_times(40), matrix=1)
    with open_media(path) as reader:
        kept, at_once = [], []
        for frame in reader:
            kept.append(frame)
            at_once.append(frame.pixels)
    assert torch.equal(rgb_of(kept), torch.stack(at_once))


def test_transparency_of_a_clip_is_no_plane_of_its_frames(tmp_path):
    path = write_clip(tmp_path / "in.mkv", smooth_clip(1, 48, 64), even_times(1), codec="ffv1", pix_fmt="yuva420p")
    (frame,) = open_media(path)
    assert len(frame.planes) == 3 and not frame.layout.alpha and frame.pixels.shape == (3, 48, 64)


@pytest.mark.parametrize("number", [5, 6, 9, 2], ids=["bt470bg", "bt601", "bt2020", "unspecified"])
def test_a_frame_scaled_in_mid_stream_keeps_its_matrix(number):
    """libswscale calls what it scales BT.709, whatever it was."""
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane, code in zip(frame.planes, (120, 90, 200), strict=True):
        plane.update(bytes([code]) * plane.buffer_size)
    frame.colorspace = number
    layout = planes_of(frame)[1]
    planes, scaled = planes_of(scaled_to(frame, 2048, 1152))  # unspecified: BT.601 by its own size
    assert scaled.matrix == layout.matrix != "bt709"
    assert torch.equal(to_rgb(planes, scaled)[0, :, 500, 500], to_rgb(*planes_of(frame))[0, :, 20, 20])


def test_a_clip_whose_size_changes_keeps_its_colours(tmp_path):
    def ramps(height, width):
        across = torch.linspace(20, 220, width).view(1, 1, width).expand(1, height, width)
        down = torch.linspace(20, 220, height).view(1, height, 1).expand(1, height, width)
        return torch.stack([torch.cat([across, 240 - across, down]).round().to(torch.uint8)] * 3)

    parts = [
        write_clip(tmp_path / f"{height}.ts", ramps(height, width), even_times(3), matrix=5).read_bytes()
        for height, width in ((48, 64), (96, 128))
    ]
    (tmp_path / "in.ts").write_bytes(b"".join(parts))
    with open_media(tmp_path / "in.ts") as reader:
        rgb = rgb_of(list(reader))
    assert rgb.shape == (6, 3, 48, 64)
    assert (rgb.int() - ramps(48, 64)[0].int()).abs().max() <= 5  # by another matrix some are 16 off


def test_a_picture_is_its_rgb(tmp_path):
    pixels = torch.randint(0, 256, (3, 17, 23), dtype=torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "in.png")
    (frame,) = open_media(tmp_path / "in.png")
    assert frame.layout is None and torch.equal(frame.pixels, pixels) and frame.nbytes == 3 * 17 * 23
    with open_writer(tmp_path / "out.png", MediaInfo(tmp_path / "in.png", "image", 23, 17), (17, 23)) as writer:
        planes = writer.planes_for(pixels[None])
        assert writer.layout is None and torch.equal(planes[0], pixels[None])
        writer.write_planes(planes, [Fraction(0)])
    (again,) = open_media(tmp_path / "out.png")
    assert torch.equal(again.pixels, pixels)


def clip_info(folder):
    return MediaInfo(folder / "in.mp4", "video", 64, 48, frame_rate=Fraction(25))


@pytest.mark.parametrize("size", [(48, 64), (33, 47)], ids=str)
def test_planes_written_are_the_pixels_written(tmp_path, size):
    clip = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8)
    for name in ("rgb.mp4", "planes.mp4"):
        with open_writer(tmp_path / name, clip_info(tmp_path), size, options=OutputOptions(crf=0)) as writer:
            if name == "rgb.mp4":
                writer.write(clip, even_times(6))
            else:
                for first in (0, 4):
                    planes = writer.planes_for(clip[first : first + 4])
                    assert all(p.shape[-1] % 2 == 0 for p in planes[:1])
                    writer.write_planes(planes, even_times(6)[first : first + 4])
                    for plane in planes:
                        plane.zero_()  # they were copied
    assert (tmp_path / "rgb.mp4").read_bytes() == (tmp_path / "planes.mp4").read_bytes()
    with open_media(tmp_path / "planes.mp4") as reader:
        stored = [frame.planes for frame in reader]
    wanted = from_rgb(clip, writer.layout)
    for number, planes in enumerate(stored):
        assert torch.equal(planes[0][0, : size[0], : size[1]], wanted[0][number])  # crf 0 is lossless


def test_wrong_planes_are_refused(tmp_path):
    with open_writer(tmp_path / "out.mp4", clip_info(tmp_path), (48, 64)) as writer:
        clip = smooth_clip(2, 48, 64)
        for wrong in (clip.float(), clip[0], clip[:, :2], clip.int()):
            with pytest.raises(ValueError, match=r"u8 \[T, 3, H, W\]"):
                writer.planes_for(wrong)
        with pytest.raises(ValueError, match="for a clip of"):
            writer.planes_for(clip[..., :32])
        with pytest.raises(ValueError, match="planes of"):
            writer.write_planes(from_rgb(clip[..., :32], writer.layout), even_times(2))
        with pytest.raises(ValueError, match="1 times"):
            writer.write_planes(writer.planes_for(clip), even_times(1))
        writer.write(clip, even_times(2))


def test_written_colour_is_where_a_player_looks_for_it(tmp_path):
    """Colour that rises by 6 levels a pixel; chroma written in the centre and shown as on the left is 3 levels off."""
    ramp = torch.arange(32).mul(6).add(30).to(torch.uint8).view(1, 1, 32).expand(1, 24, 32)
    rgb = torch.cat([ramp, 255 - ramp, 255 - ramp])
    with open_writer(tmp_path / "out.mp4", clip_info(tmp_path), (24, 32), options=OutputOptions(crf=0)) as writer:
        writer.write(rgb[None], [Fraction(0)])
    (frame,) = open_media(tmp_path / "out.mp4")
    shown = to_rgb(frame.planes, replace(frame.layout, location="left"))[0]
    assert (shown.int() - rgb.int()).abs()[..., 4:-4].max() <= 1 and frame.layout.location == "left"


@pytest.fixture(scope="module")
def grainy():
    noise_of = torch.Generator().manual_seed(0)
    clip = smooth_clip(12, 256, 96)  # on low pictures x264 would leave cores idle by itself
    return clip + torch.randint(0, 40, clip.shape, generator=noise_of, dtype=torch.uint8)


def written(path, clip):
    with open_writer(path, clip_info(path.parent), tuple(clip.shape[-2:])) as writer:
        writer.write(clip, even_times(len(clip)))
    return path.read_bytes()


def test_a_clip_has_the_same_bytes_on_any_number_of_cores(tmp_path, grainy):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("needs two cores to be told apart from one")
    try:
        os.sched_setaffinity(0, {min(cores)})  # x264 counts the cores of the thread that opens it
        on_one = written(tmp_path / "one.mp4", grainy)
    finally:
        os.sched_setaffinity(0, cores)
    assert on_one == written(tmp_path / "all.mp4", grainy) and b"sliced_threads=0" in on_one


@pytest.mark.parametrize("instructions", ["0", "SSE2Fast"])
def test_a_clip_has_the_same_bytes_with_the_instructions_of_another_processor(
    tmp_path, grainy, monkeypatch, instructions
):
    here = written(tmp_path / "here.mp4", grainy)
    options = dict(encoder.X264)
    options["x264-params"] += f":asm={instructions}"
    monkeypatch.setattr(encoder, "X264", options)
    assert written(tmp_path / "there.mp4", grainy) == here
