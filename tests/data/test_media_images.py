"""Laws of pictures: upright 8-bit sRGB in, the format of the suffix out, transparency and delays kept."""

import itertools
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from data.media import MediaError, MediaInfo, alpha_of, open_media, open_writer, output_path
from data.media.image_pixels import fill_hidden, over_white
from tests.data.media_samples import smooth_clip

PICTURE = smooth_clip(1, 24, 33)[0]


def as_image(pixels):
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def read(path):
    with open_media(path) as reader:
        return reader.info, [frame.pixels for frame in reader]


@pytest.mark.parametrize(
    "suffix,kind,error",
    [
        (".png", "PNG", 0),
        (".bmp", "BMP", 0),
        (".tif", "TIFF", 0),
        (".tiff", "TIFF", 0),
        (".jpg", "JPEG", 2),
        (".JPEG", "JPEG", 2),
        (".webp", "WEBP", 4),
    ],
)
def test_the_suffix_is_the_format(tmp_path, suffix, kind, error):
    source = tmp_path / f"in{suffix}"
    as_image(PICTURE).save(source, format=kind, quality=100, **({"lossless": True} if kind == "WEBP" else {}))
    info, pixels = read(source)
    target = output_path(source, tmp_path / "out", info)
    with open_writer(target, info, (24, 33)) as writer:
        writer.write(pixels[0][None], [Fraction(0)])
    with Image.open(target) as image:
        assert image.format == kind and target.name == source.name
    result = read(target)[1][0]
    assert result.shape == (3, 24, 33) and (result.float() - pixels[0].float()).abs().mean() <= error


def test_a_format_we_cannot_write_becomes_png(tmp_path):
    as_image(PICTURE).save(tmp_path / "in.ppm")
    info, pixels = read(tmp_path / "in.ppm")
    assert info.kind == "image" and torch.equal(pixels[0], PICTURE)
    assert output_path(tmp_path / "in.ppm", tmp_path, info).name == "in.png"


def test_the_content_decides_not_the_name(tmp_path):
    as_image(PICTURE).save(tmp_path / "really_png.jpg", format="PNG")
    assert torch.equal(read(tmp_path / "really_png.jpg")[1][0], PICTURE)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_transparency_is_kept_and_grows_with_the_picture(tmp_path, suffix):
    alpha = torch.zeros(1, 24, 33, dtype=torch.uint8)
    alpha[:, :, 16:] = 255
    rgba = torch.cat([PICTURE, alpha])
    as_image(rgba).save(tmp_path / "in.png")
    info, pixels = read(tmp_path / "in.png")
    assert torch.equal(info.alpha, alpha) and torch.equal(pixels[0][:, :, 16:], PICTURE[:, :, 16:])
    with open_writer(tmp_path / f"out{suffix}", info, (48, 66)) as writer:
        writer.write(smooth_clip(1, 48, 66), [Fraction(0)])
    out = read(tmp_path / f"out{suffix}")[0].alpha
    assert out.shape == (1, 48, 66)
    assert bool((out[:, :, :28] < 8).all()) and bool((out[:, :, 38:] > 247).all())


def test_a_format_without_transparency_says_so(tmp_path, caplog):
    info = MediaInfo(tmp_path / "a.png", "image", 33, 24, alpha=torch.zeros(1, 24, 33, dtype=torch.uint8))
    with open_writer(tmp_path / "out.jpg", info, (24, 33)) as writer:
        writer.write(PICTURE[None], [Fraction(0)])
    assert "no transparency" in caplog.text and read(tmp_path / "out.jpg")[0].alpha is None


def test_hidden_pixels_take_the_colour_of_visible_ones():
    alpha = torch.zeros(1, 24, 33, dtype=torch.uint8)
    alpha[:, 8:16, 8:16] = 200
    pixels = torch.where(alpha > 0, torch.tensor([200, 100, 50])[:, None, None], 0).to(torch.uint8)
    filled = fill_hidden(pixels, alpha)
    assert bool((filled.float() - torch.tensor([200.0, 100, 50])[:, None, None]).abs().max() <= 1)
    assert torch.equal(fill_hidden(PICTURE, torch.full((1, 24, 33), 9, dtype=torch.uint8)), PICTURE)
    words = fill_hidden((pixels.int() * 257).to(torch.int16), alpha).int() & 65535
    assert (words / 257 - filled).abs().max() <= 0.51  # the same colours in 16 bits, where averages are rounded finer


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, orientation):
    turned = {  # what a camera stores so that the tag turns it back
        1: lambda x: x,
        2: lambda x: x.flip(-1),
        3: lambda x: torch.rot90(x, 2, (-2, -1)),
        4: lambda x: x.flip(-2),
        5: lambda x: x.transpose(-2, -1),
        6: lambda x: torch.rot90(x, 1, (-2, -1)),
        7: lambda x: torch.rot90(x, 2, (-2, -1)).transpose(-2, -1),
        8: lambda x: torch.rot90(x, -1, (-2, -1)),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_image(turned(PICTURE).contiguous()).save(tmp_path / "in.png", exif=exif)
    info, pixels = read(tmp_path / "in.png")
    assert torch.equal(pixels[0], PICTURE) and (info.height, info.width) == (24, 33)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "PA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = as_image(PICTURE).convert(mode)
    path = tmp_path / ("in.tif" if mode in ("CMYK", "PA") else "in.png")
    if mode == "PA":
        image, path = as_image(PICTURE).convert("P"), tmp_path / "in.png"
        image.info["transparency"] = 3
        image.save(path, transparency=3)
        mode = "P"
    else:
        image.save(path)
    info, pixels = read(path)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    visible = torch.ones(1, 24, 33, dtype=torch.bool) if info.alpha is None else info.alpha > 0
    assert torch.equal(torch.where(visible, pixels[0], 0), torch.where(visible, expected, 0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_rounded_not_cut(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 65536, (24, 33, channels), dtype=np.uint16)
    if channels == 4:
        values[..., 3] = 65535 - (values[..., 3] > 30000) * 30000  # visible everywhere
    cv2.imwrite(str(tmp_path / "in.png"), values.squeeze())
    info, pixels = read(tmp_path / "in.png")
    expected = torch.from_numpy(np.round(values / 257).astype(np.uint8)).permute(2, 0, 1)
    expected = expected.expand(3, -1, -1) if channels == 1 else expected[:3].flip(0)  # OpenCV writes BGR
    assert torch.equal(pixels[0], expected) and (info.alpha is not None) == (channels == 4)


def test_colour_profiles_become_srgb_and_broken_ones_are_named(tmp_path, caplog):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    as_image(PICTURE).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert (read(tmp_path / "srgb.png")[1][0].float() - PICTURE.float()).abs().max() <= 1
    as_image(PICTURE).save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert torch.equal(read(tmp_path / "broken.png")[1][0], PICTURE) and "profile ignored" in caplog.text
    with Image.open(tmp_path / "srgb.png") as image:
        lab = ImageCms.profileToProfile(
            image.convert("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    lab.save(tmp_path / "lab.tif", icc_profile=profile)
    assert (read(tmp_path / "lab.tif")[1][0].float() - PICTURE.float()).abs().mean() < 3


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_keep_frames_and_delays(tmp_path, suffix):
    clip = smooth_clip(5, 24, 33)
    delays = [40, 120, 40, 300, 80]
    frames = [as_image(picture) for picture in clip]
    frames[0].save(tmp_path / f"in{suffix}", save_all=True, append_images=frames[1:], duration=delays, loop=0)
    info, pixels = read(tmp_path / f"in{suffix}")
    assert info.kind == "animation" and len(pixels) == 5 and info.duration == Fraction(sum(delays), 1000)
    assert (torch.stack(pixels).float() - clip.float()).abs().mean() < 12
    target = output_path(tmp_path / f"in{suffix}", tmp_path / "out", info)
    with open_media(tmp_path / f"in{suffix}") as reader, open_writer(target, info, (24, 33)) as writer:
        for frame in reader:
            writer.write(frame.pixels[None], [frame.time])
    with open_media(target) as reader:
        times = [frame.time for frame in reader]
        assert [b - a for a, b in itertools.pairwise(times)] == [Fraction(d, 1000) for d in delays[:-1]]
        assert target.suffix == ".mp4" and reader.info.duration == info.duration


def test_gif_delays_too_short_to_mean_anything_play_as_in_browsers(tmp_path):
    frames = [as_image(picture) for picture in smooth_clip(3, 24, 33)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:], duration=0)
    assert read(tmp_path / "in.gif")[0].duration == Fraction(3, 10)


def test_animations_lie_over_white():
    alpha = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 3)
    black = torch.zeros(3, 1, 3, dtype=torch.uint8)
    assert over_white(black, alpha)[0].flatten().tolist() == [255, 127, 0]


def test_a_cut_picture_is_refused(tmp_path, monkeypatch):
    as_image(smooth_clip(1, 200, 200)[0]).save(tmp_path / "whole.jpg", quality=95)
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match="HEIC pictures need the package pillow-heif"):
        open_media(tmp_path / "phone.heic")
    with pytest.raises(MediaError, match="picture is damaged"):
        open_media(tmp_path / "cut.jpg")
    with pytest.raises(MediaError, match="header is damaged"):
        open_media(tmp_path / "head.png")


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
def test_an_animation_keeps_its_transparency_or_is_told(tmp_path, suffix):
    """Half of each frame is transparent; in the second clip only from the third frame on."""
    frames = [Image.new("RGBA", (16, 12), (20, 90, 40 * index, 255)) for index in range(4)]
    hidden = [frame.copy() for frame in frames]
    for frame in hidden:
        frame.paste((200, 0, 0, 0), (0, 0, 8, 12))
    later, opaque = tmp_path / f"later{suffix}", tmp_path / f"opaque{suffix}"
    how = {"save_all": True, "duration": 40, "lossless": True, "disposal": 2 if suffix == ".gif" else 0}
    how |= {} if suffix == ".gif" else {"blend": 0}
    hidden[0].save(tmp_path / f"half{suffix}", append_images=hidden[1:], **how)
    frames[0].save(later, append_images=[frames[1], *hidden[2:]], **how)
    frames[0].save(opaque, append_images=frames[1:], **how)
    with open_media(tmp_path / f"half{suffix}", alpha="keep") as reader:
        kept = list(reader)
        assert reader.info.transparent and not reader.notes
    assert len(kept) == 4 and all(frame.transparent for frame in kept)
    alpha = alpha_of(kept)
    assert (alpha[..., :8] == 0).all() and (alpha[..., 8:] == 1).all()
    with open_media(tmp_path / f"half{suffix}") as reader:
        laid = list(reader)
        assert not reader.info.transparent
    assert [note.split(": ")[1] for note in reader.notes] == ["has transparency, which is laid over white"]
    assert all((frame.pixels[..., :8] == 255).all() and not frame.transparent for frame in laid)
    if suffix != ".gif":  # Pillow writes none that begins opaque
        with open_media(later) as reader:
            shown = list(reader)
            assert not reader.notes
        assert "has transparency, which is laid over white from frame 2 on" in reader.damage
        assert (shown[2].pixels[..., :8] == 255).all() and (shown[1].pixels[..., :8] != 255).any()
    with open_media(opaque, alpha="keep") as reader:
        assert not any(frame.transparent for frame in reader)
        assert not (reader.info.transparent or reader.notes or reader.damage)
