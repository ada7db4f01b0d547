"""What the gAMA and cHRM of a PNG mean."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data.media.picture_tags import srgb_profile
from data.media.png_colour import PngColour
from tests.data.picture_samples import PIXELS, as_image, read


def png(path, image, *chunks):
    """A PNG with chunks put behind its header."""
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    packed = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(data[:33] + packed + data[33:])
    return path


def gama(gamma):
    return b"gAMA", struct.pack(">I", round(100_000 * gamma))


def srgb_of(light):
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.3])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "RGB;16"])
def test_the_gamma_of_a_png_is_undone(tmp_path, gamma, mode):
    ramp = np.arange(256, dtype=np.uint16)[None].repeat(2, 0)
    if mode == "I;16":
        image = Image.fromarray(ramp * 257)
    elif mode == "RGB;16":
        import cv2

        cv2.imwrite(str(tmp_path / "deep.png"), (ramp * 257)[..., None].repeat(3, 2))
        image = None
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)
    if image is None:
        data, (name, body) = (tmp_path / "deep.png").read_bytes(), gama(gamma)
        chunk = struct.pack(">I", 4) + name + body + struct.pack(">I", zlib.crc32(name + body))
        path = tmp_path / "a.png"
        path.write_bytes(data[:33] + chunk + data[33:])
    else:
        path = png(tmp_path / "a.png", image, gama(gamma))
        ramp = np.asarray(image.convert("RGB"))[..., 0] if mode == "P" else ramp
    pixels, _ = read(path)
    expected = srgb_of((ramp / 255) ** (1 / gamma))
    assert np.abs(pixels[0].numpy() - expected).max() <= 0.51


def test_sixteen_bits_of_light_are_not_rounded_before_the_curve(tmp_path):
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    pixels, _ = read(png(tmp_path / "a.png", Image.fromarray(ramp), gama(1.0)))
    assert np.abs(pixels[0].numpy() - srgb_of(ramp / 65535)).max() <= 0.51 and len(np.unique(pixels[0])) > 60


@pytest.mark.parametrize(
    "winner", [(b"sRGB", b"\0"), (b"cICP", b"\1\x0d\0\1"), (b"iCCP", b"s\0\0" + zlib.compress(srgb_profile()))],
    ids=["sRGB", "cICP", "iCCP"],
)  # fmt: skip
def test_chunks_that_say_more_win_over_the_gamma(tmp_path, winner):
    pixels, _ = read(png(tmp_path / "a.png", as_image(), winner, gama(1.0)))
    assert (pixels.int() - PIXELS.int()).abs().max() <= 1


def test_the_usual_gamma_changes_nothing_and_other_primaries_do(tmp_path):
    assert torch.equal(read(png(tmp_path / "a.png", as_image(), gama(0.45455)))[0], PIXELS)
    p3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    chunk = b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in p3))
    red = Image.new("RGB", (4, 4), (200, 60, 60))
    pixels, _ = read(png(tmp_path / "b.png", red, gama(0.45455), chunk))
    profile = PngColour(0.45455, p3).converted(np.asarray(red), 255)
    assert (pixels.numpy() == profile.transpose(2, 0, 1)).all() and int(pixels[0, 0, 0]) > 205
    white = PngColour(0.45455, (0.3457, 0.3585, *p3[2:])).converted(np.full((1, 1, 3), 255), 255)
    assert (white >= 254).all()
