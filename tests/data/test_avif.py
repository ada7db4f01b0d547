"""AVIF pictures of more than 8 bits: every code, orientation, gray, transparency, grids and colours."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from data.media import avif, open_media, open_writer
from data.media.colour import BT2020, PQ, Colour
from data.media.probe import probe

SAMPLES = Path(__file__).parent / "avif"


def codes_of(bits):
    return np.arange(2**bits).reshape(-1, 64)


def rgb_of(bits):
    """Codes [3, H, W] of the samples in colour: a ramp, its rows reversed, its columns reversed."""
    codes = codes_of(bits)
    return np.stack((codes, codes[::-1], codes[:, ::-1]))


def words(codes, bits):
    return np.round(codes * 65535 / (2**bits - 1)).astype(np.int64)


def read(name):
    """(words [3, H, W], MediaInfo, notes); the probe must say the same as the reader."""
    with open_media(SAMPLES / name) as reader:
        (frame,), info, notes = list(reader), reader.info, reader.notes
    found = probe(SAMPLES / name)
    assert (found.depth, found.height, found.width) == (info.depth, info.height, info.width)
    assert (found.primaries, found.transfer) == (info.colour.primaries, info.colour.transfer)
    return frame.planes[0][0].numpy().view(np.uint16).astype(np.int64), info, notes


UPRIGHT = {
    "rgb10": lambda stored: stored,
    "rgb12": lambda stored: stored,
    "rgb10_irot": lambda stored: np.rot90(stored, 1, (1, 2)),  # anticlockwise
    "rgb10_imir": lambda stored: stored[..., ::-1],
    "rgb10_irot_imir": lambda stored: np.rot90(stored, 1, (1, 2))[:, ::-1],  # turned, then mirrored
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_every_code_is_read_upright(name):
    bits = int(name[3:5])
    pixels, info, notes = read(f"{name}.avif")
    assert info.depth == 16 and not notes and not info.colour.is_hdr
    assert np.array_equal(pixels, UPRIGHT[name](words(rgb_of(bits), bits)))


def test_tiles_of_a_grid_are_joined():
    pixels, info, _ = read("rgb10_grid.avif")
    given = np.arange(256 * 128).reshape(256, 128) * 2  # of 16 bits
    assert info.depth == 16 and pixels.shape == (3, 256, 128)
    assert np.abs(pixels - given).max() <= 65535 / 1023


@pytest.mark.parametrize("name,levels", [("gray10", 1024), ("gray10_limited", 877)])
def test_gray_stays_gray_and_takes_the_whole_range(name, levels):
    pixels, info, notes = read(f"{name}.avif")
    assert info.depth == 16 and info.tags.gray and not notes
    assert len(np.unique(pixels)) == levels
    assert np.abs(pixels - words(codes_of(10), 10)).max() <= 65535 / (levels - 1) / 2 + 1


def test_transparency_of_16_bits_is_read(tmp_path):
    pixels, info, _ = read("rgba10.avif")
    alpha = info.alpha.numpy().view(np.uint16).astype(np.int64)[0]
    assert np.array_equal(alpha, words(codes_of(10), 10))
    visible = alpha > 0
    assert np.array_equal(pixels[:, visible], words(rgb_of(10), 10)[:, visible])
    with (
        open_media(SAMPLES / "rgba10.avif") as reader,
        open_writer(tmp_path / "a.png", reader.info, (16, 64)) as writer,
    ):
        writer.write(next(iter(reader)).planes[0], [0])
    made = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert made.dtype == np.uint16 and np.array_equal(made[..., 3], alpha)


def test_numbers_of_a_limited_subsampled_picture_are_undone_and_kept():
    pixels, info, _ = read("yuv420p10_pq.avif")
    assert info.colour == Colour(BT2020, PQ)
    with av.open(str(SAMPLES / "yuv420p10_pq.avif")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[:16].astype(np.int64)
    wanted = (luma - 64) / 876
    found = np.tensordot((0.2627, 0.6780, 0.0593), pixels / 65535, 1)
    inside = (pixels.min(0) > 0) & (pixels.max(0) < 65535)  # clipping changes the luma
    assert inside.mean() > 0.5 and np.abs(found - wanted)[inside].max() <= 1 / 1023


@pytest.mark.parametrize("kind", ["gray with transparency", "no AVIF in OpenCV", "OpenCV fails"])
def test_bits_that_are_not_read_are_told(monkeypatch, capfd, kind):
    if kind == "no AVIF in OpenCV":
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    AVIF:                        NO\n")
    if kind == "OpenCV fails":  # for which it prints lines of its own
        monkeypatch.setattr(avif.np, "fromfile", lambda path, dtype: np.frombuffer(path.read_bytes()[:-20], dtype))
    name = "gray10_alpha.avif" if kind.startswith("gray") else "rgb10.avif"
    with open_media(SAMPLES / name) as reader:
        depth, (note,) = reader.info.depth, reader.notes
    assert capfd.readouterr().err == ""
    assert depth == 8 and note.startswith(f"{name}: has 10 bits a sample, of which 8 are read (")
    assert note.endswith("; a 16-bit PNG of it would keep them")


def test_8_bits_stay_with_pillow_and_keep_the_numbers_of_their_colours(tmp_path):
    """Deep animations are read with 8 bits, which is told."""
    for bits, frames in ((8, 1), (10, 3)):
        path = tmp_path / f"a{bits}.avif"
        pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
        with av.open(str(path), "w", format="avif") as container:
            stream = container.add_stream("libsvtav1", rate=10, options={"preset": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
            stream.codec_context.color_primaries, stream.codec_context.color_trc = 9, 14
            for _ in range(frames):
                container.mux(stream.encode(av.VideoFrame(64, 64, pix_fmt)))
            container.mux(stream.encode(None))
        with open_media(path) as reader:
            assert reader.info.depth == 8
            if bits == 8:
                assert not reader.notes and reader.info.colour == Colour(BT2020, 14)
                assert next(iter(reader)).pixels[0, 0, 0] == np.asarray(Image.open(path))[0, 0, 0]
            else:
                assert reader.info.kind == "animation"
                assert reader.notes == (
                    "a10.avif: has 10 bits a sample, of which 8 are read; an MP4 of it would keep them",
                )
