"""Small files of every kind, and seeded damage to them."""

import random
from pathlib import Path

from PIL import Image

from tests.data.media_samples import even_times, smooth_clip, write_clip

# name: (video codec, ticks per second, sound)
CLIPS = {
    "a.mp4": ("libx264", 90_000, "aac"),
    "a.mov": ("mjpeg", 25, "pcm_s16le"),
    "a.mkv": ("libx264", 1000, "ac3"),
    "a.webm": ("libvpx", 25, "libopus"),
    "a.avi": ("mpeg4", 25, "libmp3lame"),
    "a.wmv": ("wmv2", 25, "libmp3lame"),
    "a.flv": ("flv", 25, "aac"),
    "a.ts": ("mpeg2video", 25, "mp2"),
    "a.mpg": ("mpeg2video", 25, "mp2"),
}
PICTURES = (
    "a.png",
    "a.jpg",
    "a.gif",
    "a.webp",
    "a.tif",
    "a.bmp",
    "a.ppm",
    "a.jp2",
    "b.png",
    "b.webp",
    "b.tif",
    "b.gif",
)


def make(folder: Path, name: str) -> Path:
    """A whole file; pictures of the name b are animated, or stored in another way."""
    path = folder / name
    if name in CLIPS:
        codec, ticks, audio = CLIPS[name]
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        return write_clip(
            path, smooth_clip(12, 32, 48), even_times(12), codec=codec, ticks=ticks, audio=audio, pix_fmt=pix_fmt
        )
    frames = [Image.fromarray(f.permute(1, 2, 0).contiguous().numpy()) for f in smooth_clip(4, 24, 33)]
    exif = Image.Exif()
    exif[0x0112] = 6
    if name == "b.tif":
        frames[0].save(path, compression="tiff_lzw", tiffinfo={0x0112: 6})
    elif name in ("b.png", "b.webp", "b.gif", "a.gif"):
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 80, 120, 40])
    else:
        frames[0].save(path, **({"exif": exif} if path.suffix in (".png", ".jpg", ".webp") else {}))
    return path


def mutant(whole: bytes, generator: random.Random) -> bytes:
    """A damaged copy: bytes changed, blocks overwritten, moved, removed or repeated, the end cut off."""
    data = bytearray(whole)
    for _ in range(generator.choice((1, 1, 2, 5))):
        kind, place = generator.randrange(6), generator.randrange(len(data))
        span = min(generator.choice((1, 4, 16, 200)), len(data) - place)
        if kind == 0:
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place : place + span] = generator.randbytes(span)
        elif kind == 2:
            data[place : place + span] = bytes([generator.choice((0, 0xFF))]) * span
        elif kind == 3:
            del data[place : place + span]
        elif kind == 4:
            data[place:place] = data[place : place + span]
        else:
            del data[max(place, 16) :]
        if not data:
            return bytes(whole[:1])
    return bytes(data)
