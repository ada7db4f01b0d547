"""Ramps and charts of more than 8 bits through the whole program, read back. The networks' share is left out
(`strength` 0), so that what differs is the program's own."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from data.media import OutputOptions, alpha_of, open_media, rgb_of
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restore import restore_clip

SMALL = ["dit.model.num_layers=2", "vae.model.block_out_channels=[8,8,16]"]
SIZE = (32, 96)
BT2020_PQ, BT2020_HLG, P3, BT2020_SDR = (9, 16, 9), (9, 18, 9), (12, 13, 1), (9, 14, 9)


@pytest.fixture(scope="module")
def restorer():
    request = Request(res=SIZE, random_weights=True, overrides=tuple(SMALL), window_frames=0)
    with process_group("cpu") as process:
        yield replace(build(SEEDVR2_TINY, request, Parallel(process)), result_options=ResultOptions(strength=0.0))


def chart(path: Path, colour=(1, 1, 1), pix_fmt="yuv420p10le", frames=2, low=64, high=940) -> np.ndarray:
    """A lossless clip whose luma rises over all codes of video, in rows of different steps; returns its luma."""
    height, width = SIZE
    codes = np.linspace(low, high, 3 * width).round().reshape(3, width)
    luma = np.repeat(np.stack([codes[0], codes[1], codes[2], codes[2][::-1]]), height // 4, 0).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for n in range(frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for number, plane in enumerate(frame.planes):
                rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
                rows[:] = 512 if number in (1, 2) else 1023
                if number == 0:
                    rows[:, :width] = luma
            for target in (stream.codec_context, frame):
                target.color_primaries, target.color_trc, target.colorspace = colour
                target.color_range = 1
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return luma.astype(np.int64)


def luma_of(path: Path) -> tuple[np.ndarray, tuple[int, int, int], str]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    rows = np.frombuffer(frame.planes[0], np.uint8 if "p10" not in frame.format.name else np.uint16)
    tags = int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace)
    return rows.reshape(frame.height, -1)[:, : frame.width].astype(np.int64), tags, frame.format.name


def restored(restorer, path, folder, **output):
    options = ResultOptions(strength=0.0, output=OutputOptions(**output))
    return restore_clip(path, folder, replace(restorer, result_options=options)).output


SLOW = pytest.mark.slow


@pytest.mark.parametrize("colour", [
    BT2020_PQ, *(pytest.param(colour, marks=SLOW) for colour in ((1, 1, 1), BT2020_HLG, P3, BT2020_SDR)),
], ids=str)  # fmt: skip
def test_a_chart_of_10_bits_comes_back_code_for_code_with_its_tags(restorer, tmp_path, colour):
    luma = chart(tmp_path / "in.mkv", colour)
    result = restored(restorer, tmp_path / "in.mkv", tmp_path / "out", codec="ffv1", pixel_format="yuv420p10le")
    found, tags, _ = luma_of(result)
    assert np.abs(found - luma).max() <= 1 and tags == colour
    assert len(np.unique(found)) > 250


@pytest.mark.slow
def test_by_default_10_bits_become_10_bits_of_hevc(restorer, tmp_path):
    luma = chart(tmp_path / "in.mkv", BT2020_PQ)
    found, tags, pix_fmt = luma_of(restored(restorer, tmp_path / "in.mkv", tmp_path / "out"))
    assert pix_fmt == "yuv420p10le" and tags == BT2020_PQ and np.abs(found - luma)[:, 2:-2].max() < 24
    assert np.abs(found - luma).mean() < 3


@pytest.mark.slow
def test_in_8_bits_10_are_dithered(restorer, tmp_path):
    luma = chart(tmp_path / "in.mkv")
    path = restored(restorer, tmp_path / "in.mkv", tmp_path / "out", codec="ffv1", pixel_format="yuv420p", bit_depth=8)
    found, tags, _ = luma_of(path)
    off = found - luma / 4
    assert np.abs(off).max() < 1.1 and tags == (1, 1, 1)
    assert abs(off.mean()) < 0.05 and np.abs(off[:8].reshape(8, 12, 8).mean((0, 2))).max() < 0.1  # of 64 pixels


@pytest.mark.slow
@pytest.mark.parametrize("colour", [BT2020_PQ, BT2020_HLG], ids=str)
def test_hdr_as_sdr_is_tagged_bt709_and_rises(restorer, tmp_path, colour):
    chart(tmp_path / "in.mkv", colour)
    found, tags, pix_fmt = luma_of(restored(restorer, tmp_path / "in.mkv", tmp_path / "out", hdr="sdr", crf=0))
    assert tags == (1, 1, 1) and pix_fmt == "yuv420p"
    middle = np.concatenate([found[4 + 8 * row] for row in range(3)])
    assert middle[0] <= 18 and middle[-1] >= 233 and (np.diff(middle[::8]) >= -2).all()


@pytest.mark.parametrize("output", [
    {"codec": "ffv1"}, *(pytest.param({"codec": codec}, marks=SLOW) for codec in ("prores", "vp9", "png")),
], ids=str)  # fmt: skip
def test_alpha_of_a_clip_is_restored_where_the_codec_has_it(restorer, tmp_path, output):
    height, width = SIZE
    alpha = np.linspace(0, 255, width).round().astype(np.uint8)[None].repeat(height, 0)
    for n in range(2):
        picture = np.dstack([np.full((height, width), 200, np.uint8)] * 3 + [alpha])
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"f{n}.png")
    options = ResultOptions(strength=0.0, output=OutputOptions(**output))
    options = replace(options, frames_out="png" if output["codec"] == "png" else None)
    result = restore_clip(tmp_path / "in", tmp_path / "out", replace(restorer, result_options=options)).output
    with open_media(result, alpha="keep") as reader:
        frames = list(reader)
    assert (alpha_of(frames) * 255 - torch.from_numpy(alpha)).abs().max() < 2
    assert (rgb_of(frames).int() - 200).abs().max() < 4  # what is hidden is filled with what is seen


@pytest.mark.slow
def test_a_picture_of_16_bits_stays_so_through_the_program(restorer, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, SIZE, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "in.png")
    with Image.open(restored(restorer, tmp_path / "in.png", tmp_path / "out")) as image:
        assert image.mode == "I;16" and np.abs(np.asarray(image).astype(int) - values).max() <= 1


@pytest.mark.slow
def test_frames_of_16_bits(restorer, tmp_path):
    chart(tmp_path / "in.mkv")
    options = ResultOptions(strength=0.0, frames_out="png")
    folder = restore_clip(tmp_path / "in.mkv", tmp_path / "out", replace(restorer, result_options=options)).output
    with open_media(folder) as deep, open_media(tmp_path / "in.mkv") as source:
        assert deep.info.depth == 16
        pairs = zip(deep, source, strict=True)
        errors = [rgb_of([a], dtype=torch.float32) - rgb_of([b], dtype=torch.float32) for a, b in pairs]
    assert max(float(error.abs().max()) for error in errors) < 1.1 / 65535


def test_what_does_not_go_together_is_refused_before_anything_is_computed(tmp_path, capsys):
    chart(tmp_path / "in.mkv", BT2020_PQ)
    flags = ["--video_path", str(tmp_path / "in.mkv"), "--output_dir", str(tmp_path / "out"), "--random_weights"]
    for more, complaint in (
        (["--codec", "prores", "--container", "mp4"], "ProRes goes into mov or mkv, not into mp4"),
        (["--frames_out", "png", "--codec", "hevc"], "--frames_out png writes pictures, no hevc"),
        (["--encoder", "nvenc", "--codec", "ffv1"], "--encoder nvenc makes h264, hevc or av1, no FFV1"),
    ):
        assert main(SEEDVR2_TINY, [*flags, *more]) == 2 and complaint in capsys.readouterr().err
    assert main(SEEDVR2_TINY, [*flags, "--bit_depth", "8"]) == 1
    assert "in.mkv: H.264 of 8 bits cannot hold HDR" in capsys.readouterr().err and not list(
        (tmp_path / "out").glob("*")
    )
