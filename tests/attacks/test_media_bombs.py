"""Small files that decode to much: memory stays bounded, and above the limit there is a sentence.

Peak memory is that of a process of its own, beyond what it needs without the picture.
"""

import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from data.image.transforms.na_resize import NaResize, resize_8_bit
from data.media import MediaError, open_media, picture_file
from tests.conftest import ROOT

MEASURE = """
import sys
import torch
torch.set_num_threads(1)
from data.media import open_media
from data.image.transforms.na_resize import NaResize, resize_8_bit

def resize(pixels):
    return resize_8_bit(pixels, NaResize(960, "area").output_size(*pixels.shape[-2:]))

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

resize(torch.zeros(3, 64, 64, dtype=torch.uint8))
before = peak()
with open_media(sys.argv[1]) as reader:
    for number, frame in enumerate(reader):
        resize(frame.pixels)
        if number == 2:
            break
print(peak() - before, reader.info.width * reader.info.height)
"""


def png(path, side, depth, colour):
    """A black PNG made of one row."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" * (1 + (side * depth * channels + 7) // 8)
    squeeze = zlib.compressobj(1)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    if colour == 3:
        parts.insert(1, (b"PLTE", bytes(768)))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def bytes_a_pixel(path):
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, pixels = map(int, done.stdout.split())
    return peak / pixels


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("depth,colour", [(1, 0), (8, 2), (8, 3), (16, 0), (16, 2), (8, 6), (16, 6)])
def test_a_large_png_takes_few_bytes_a_pixel(tmp_path, depth, colour):
    most = 16 if depth < 16 else 24  # 12 and strips of a fixed size; 16-bit pictures are decoded twice, for both bytes
    assert bytes_a_pixel(png(tmp_path / "a.png", 6000, depth, colour)) < most


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "mode,suffix", [("1", ".tif"), ("F", ".tif"), ("CMYK", ".tif"), ("RGB", ".jpg"), ("P", ".gif")]
)
def test_large_pictures_of_other_kinds_take_few_bytes_a_pixel(tmp_path, mode, suffix):
    image = Image.new(mode, (6000, 6000))
    options = {"compression": "tiff_adobe_deflate"} if suffix == ".tif" else {}
    if suffix == ".gif":
        other = image.copy()
        other.putpixel((5, 5), 1)
        options = {"save_all": True, "append_images": [other, image, other], "duration": 40}
    image.save(tmp_path / f"a{suffix}", **options)
    assert bytes_a_pixel(tmp_path / f"a{suffix}") < (30 if suffix == ".gif" else 16)


def test_above_the_limit_there_is_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(MediaError, match=r"^a\.png: has more than 178 megapixels.*make it smaller"):
        open_media(png(tmp_path / "a.png", 13_400, 1, 0))
    monkeypatch.setattr(picture_file, "MOST_ANIMATION_PIXELS", 500)
    frames = [Image.new("RGB", (33, 24), (k, 0, 0)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"^a\.gif: has more than .* megapixels a frame"):
        open_media(tmp_path / "a.gif")


def test_a_jpeg_above_the_limit_is_read_at_half_size_and_that_is_told(tmp_path, monkeypatch, caplog):
    Image.new("RGB", (64, 48), (10, 200, 30)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 2000)
    with open_media(tmp_path / "a.jpg") as reader:
        (frame,) = reader
    assert tuple(frame.pixels.shape) == (3, 24, 32) and "it is read as 32x24" in caplog.text
    assert (frame.pixels[1].float() - 200).abs().max() < 4
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 1000)
    with pytest.raises(MediaError, match="has more than"):
        open_media(tmp_path / "a.jpg")


def test_an_animation_is_decoded_frame_by_frame(tmp_path, monkeypatch):
    frames = [Image.new("RGB", (33, 24), (40 * k, 0, 0)) for k in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    decoded = []
    load_end = GifImageFile.load_end

    def count(self):
        decoded.append(self.tell())
        load_end(self)

    monkeypatch.setattr(GifImageFile, "load_end", count)
    with open_media(tmp_path / "a.gif") as reader:
        assert set(decoded) == {0} and reader.info.frame_count_hint == 6 and reader.info.duration == Fraction(24, 100)
        iterator = iter(reader)
        next(iterator), next(iterator)
        assert max(decoded) == 1


@pytest.mark.parametrize("shape", [(3, 301, 517), (1, 97, 610), (3, 7, 5000), (3, 5000, 3)])
def test_strips_give_the_numbers_of_the_whole(monkeypatch, shape):
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for resolution in (40, 300, 700):
        resize = NaResize(resolution, "area")
        whole = resize(pixels.float() / 255)
        with monkeypatch.context() as patch:
            patch.setattr("data.image.transforms.na_resize.LARGE_PIXELS", 100)
            patch.setattr("data.image.transforms.na_resize.BLOCK_PIXELS", 9 * shape[-1])
            assert torch.equal(resize_8_bit(pixels, whole.shape[-2:]), whole)
        assert torch.equal(resize_8_bit(pixels, whole.shape[-2:]), whole)
    assert resize_8_bit(pixels, shape[1:]).dtype == torch.float32
