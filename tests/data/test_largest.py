"""A result that its format cannot hold is refused before it is computed, and one that just fits is written."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from data.media import MediaError, OutputOptions, largest, open_media, open_writer
from tests.data.media_samples import even_times, smooth_clip, write_clip

FITS = [  # suffix, codec, (height, width) of the largest side, step to the next size
    (".webp", "auto", (2, 16383), 1),
    (".jpg", "auto", (65500, 2), 1),
    (".mp4", "h264", (16, 16384), 2),
    (".mkv", "av1", (8704, 64), 2),
]


def write(folder, suffix, codec, size):
    """Write one frame of this size; the source is tiny."""
    if suffix in (".mp4", ".mkv"):
        source = write_clip(folder / "in.mp4", smooth_clip(1, 32, 48), even_times(1))
    else:
        source = folder / "in.png"
        Image.new("RGB", (4, 4)).save(source)
    with (
        open_media(source) as reader,
        open_writer(folder / f"out{suffix}", reader.info, size, options=OutputOptions(codec=codec)) as writer,
    ):
        writer.write(torch.zeros(1, 3, *size, dtype=torch.uint8), [Fraction(0)])


@pytest.mark.parametrize(("suffix", "codec", "size", "step"), FITS)
def test_the_limit_is_the_formats_own(tmp_path, monkeypatch, suffix, codec, size, step):
    write(tmp_path, suffix, codec, size)
    assert (tmp_path / f"out{suffix}").stat().st_size > 0
    larger = (size[0], size[1] + step) if size[1] > size[0] else (size[0] + step, size[1])
    said = rf"out{suffix}: cannot be written, {larger[1]}x{larger[0]} pixels are more than .* choose a smaller size"
    with pytest.raises(MediaError, match=said):
        write(tmp_path, suffix, codec, larger)
    monkeypatch.setattr(largest, "LARGEST", {})
    with pytest.raises(Exception, match=r".") as refused:  # the library's own error: the table is not too strict
        write(tmp_path, suffix, codec, larger)
    assert "choose a smaller size" not in str(refused.value)


def test_a_format_without_a_limit_takes_any_size(tmp_path):
    write(tmp_path, ".png", "auto", (2, 70_000))
    assert Image.open(tmp_path / "out.png").size == (70_000, 2)
