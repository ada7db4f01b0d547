"""A small picture, and the ways through reader and writer that tests of pictures take."""

from PIL import Image

from data.media import open_media, open_writer, output_path
from data.media.probe import probe
from tests.data.media_samples import smooth_clip

PIXELS = smooth_clip(1, 24, 36)[0]


def as_image(pixels=PIXELS):
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def read(path):
    with open_media(path) as reader:
        (frame,) = reader
        assert probe(path).height == reader.info.height
        return frame.pixels, reader.info


def through(source, folder, suffix=None, size=None, **options):
    """The result of a picture that goes through reader and writer at twice its size, opened."""
    pixels, info = read(source)
    target = output_path(source, folder, info)
    target = target.with_suffix(suffix) if suffix else target
    large = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    with open_writer(target, info, tuple(large.shape[-2:]), **options) as writer:
        writer.write(large[None], [0])
    image = Image.open(target)
    image.load()
    return image
