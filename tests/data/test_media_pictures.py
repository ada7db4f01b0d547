"""Formats by their contents, PNG gamma, camera RAW, and what the file of a picture says beside its pixels."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from data.media import MediaError, find_media, open_media, open_writer, output_path
from data.media.picture_tags import for_size, srgb_profile
from data.media.png_colour import PngColour
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


# formats

WHITE_BLACK = np.array([[255, 0, 255, 0], [0, 255, 0, 255]], np.uint8)
NETPBM = {
    "a.pbm": (b"P1\n# text\n4 2\n0 1 0 1\n1 0 1 0\n", WHITE_BLACK),
    "b.pbm": (b"P4\n4 2\n\x50\xa0", WHITE_BLACK),
    "c.pgm": (b"P2 4 2 65535\n65535 0 65535 0 0 65535 0 65535\n", WHITE_BLACK),
    "d.ppm": (b"P3\n4 2\n1\n" + b"1 1 1 0 0 0 1 1 1 0 0 0\n0 0 0 1 1 1 0 0 0 1 1 1\n", WHITE_BLACK),
    "e.ppm": (b"P6 4 2 255\n" + WHITE_BLACK[..., None].repeat(3, 2).tobytes(), WHITE_BLACK),
    "f.pfm": (b"Pf\n4 2\n-1.0\n" + (WHITE_BLACK[::-1] / 255).astype("<f4").tobytes(), WHITE_BLACK),
}


@pytest.mark.parametrize("name", NETPBM)
def test_netpbm_of_every_kind_is_read(tmp_path, name):
    data, expected = NETPBM[name]
    (tmp_path / name).write_bytes(data)
    assert (read(tmp_path / name)[0].numpy() == expected).all()


@pytest.mark.parametrize(
    "name,options", [("a.tga", {}), ("b.tga", {"compression": "tga_rle"}), ("c.ico", {}), ("d.bin", {})]
)
def test_targa_and_icons_are_read_by_name_and_by_content(tmp_path, name, options):
    kind = "ICO" if name.endswith("ico") else "TGA"
    picture = as_image().resize((32, 32))
    picture.save(tmp_path / name, kind, **options)
    if kind == "TGA" and name == "d.bin":
        assert (tmp_path / name).read_bytes().endswith(b"TRUEVISION-XFILE.\0")
    pixels, _ = read(tmp_path / name)
    assert (pixels.numpy() == np.asarray(picture).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("big", [False, True])
def test_tiffs_that_pillow_does_not_read_are_named(tmp_path, big):
    def tiff(bits, kind, samples):
        entries = [
            (256, 4, 2),
            (257, 4, 2),
            (258, 3, bits),
            (259, 3, 1),
            (262, 3, 2 if samples == 3 else 1),
            (273, 4, 8),
        ]
        entries += [(277, 3, samples), (278, 4, 2), (279, 4, 2 * 2 * samples * bits // 8), (339, 3, kind)]
        form, size = ("<HHQQ", 16) if big else ("<HHII", 8)
        body = b"".join(struct.pack(form, tag, code, 1, value) for tag, code, value in entries)
        count = struct.pack("<Q" if big else "<H", len(entries))
        head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, size) if big else struct.pack("<2sHI", b"II", 42, size)
        return head + count + body + b"\0" * 200

    for bits, kind, samples, words in ((16, 3, 1, "16 bits, float"), (64, 1, 1, "64 bits, unsigned")):
        (tmp_path / "odd.tif").write_bytes(tiff(bits, kind, samples))
        with pytest.raises(MediaError, match=rf"^odd\.tif: this kind of TIFF is not read \(1 sample of {words}"):
            open_media(tmp_path / "odd.tif")
    (tmp_path / "deep.tif").write_bytes(tiff(32, 1, 1))
    with pytest.raises(MediaError, match="32"):
        open_media(tmp_path / "deep.tif")


@pytest.mark.parametrize("big", [False, True])
def test_float_and_big_tiffs_are_read(tmp_path, big):
    ramp = np.linspace(0, 1, 36 * 24, dtype=np.float32).reshape(24, 36)
    Image.fromarray(ramp).save(tmp_path / "a.tif", big_tiff=big)
    pixels, _ = read(tmp_path / "a.tif")
    assert np.abs(pixels[0].numpy() - 255 * ramp).max() <= 0.51
    as_image().save(tmp_path / "b.tif", big_tiff=big)
    assert torch.equal(read(tmp_path / "b.tif")[0], PIXELS)


@pytest.mark.parametrize(
    "start,name", [(b"P7\nWIDTH 1\n", "PAM"), (b"PF\n1 1\n", "colour PFM"), (b"v/1\x01\2\0\0\0", "OpenEXR"),
                   (b"#?RADIANCE\n", "Radiance HDR"), (b"8BPS\0\1", "Photoshop"), (b"qoif\0\0\0\1", "QOI")],
)  # fmt: skip
def test_formats_that_are_not_read_are_named(tmp_path, start, name):
    (tmp_path / "a.png").write_bytes(start + b"\0" * 200)
    with pytest.raises(MediaError, match=rf"^a\.png: {name} pictures cannot be read; convert it to PNG or TIFF"):
        open_media(tmp_path / "a.png")


def test_formats_of_plug_ins_are_read_where_they_are_installed_and_else_ask_for_them(tmp_path, monkeypatch):
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + b"\0" * 100)
    (tmp_path / "b.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    for name in ("a.jxl", "b.jxl"):
        with pytest.raises(MediaError, match="JPEG XL pictures need the package pillow-jxl-plugin"):
            open_media(tmp_path / name)
    assert [path.name for path in find_media(tmp_path)[0]] == ["a.jxl", "b.jxl"]


def test_heic_is_read_with_its_plug_in(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[Base.Make] = "A Phone"
    as_image().save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    pixels, _ = read(tmp_path / "a.heic")
    assert (pixels.float() - PIXELS.float()).abs().mean() < 4
    result = through(tmp_path / "a.heic", tmp_path / "out")
    assert result.format == "PNG" and result.getexif()[Base.Make] == "A Phone"


def raw(order, photometric=None, extra=(), sub=None):
    """A TIFF whose first directory is a small preview, and which is a camera's RAW file by another sign."""
    entries = [
        (256, 4, 2),
        (257, 4, 2),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, photometric or 1),
        (273, 4, 300),
        (277, 3, 1),
    ]
    entries += [(278, 4, 2), (279, 4, 4), *extra] + ([(330, 4, 200)] if sub else [])

    def directory(rows):
        body = b"".join(
            struct.pack(order + "HHI", tag, kind, 1)
            + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
            for tag, kind, value in sorted(rows)
        )
        return struct.pack(order + "H", len(rows)) + body + b"\0\0\0\0"

    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory(entries)
    data = data.ljust(200, b"\0") + (directory([(262, 3, sub)]) if sub else b"")
    return data.ljust(400, b"\x80")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "signs", [{"photometric": 32803}, {"photometric": 34892}, {"extra": [(50706, 4, 0x01040000)]}, {"sub": 32803}],
    ids=["sensor", "linear", "DNG", "sensor in a sub-directory"],
)  # fmt: skip
def test_a_camera_raw_is_refused_whatever_its_name(tmp_path, order, signs):
    (tmp_path / "preview.tif").write_bytes(raw(order))
    open_media(tmp_path / "preview.tif")
    for name in ("a.dng", "b.tif", "c.jpg"):
        (tmp_path / name).write_bytes(raw(order, **signs))
        with pytest.raises(MediaError, match=rf"^{name}: a camera RAW file, of which only a small preview"):
            open_media(tmp_path / name)


@pytest.mark.parametrize("name", ["a.CR3", "b.nef", "c.x3f"])
def test_a_name_of_a_camera_raw_is_enough(tmp_path, name):
    as_image().save(tmp_path / name, "TIFF")
    with pytest.raises(MediaError, match="a camera RAW file"):
        open_media(tmp_path / name)


# PNG gamma


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
    profile = PngColour(0.45455, p3).eight_bit(np.asarray(red), 255)
    assert (pixels.numpy() == profile.transpose(2, 0, 1)).all() and int(pixels[0, 0, 0]) > 205
    white = PngColour(0.45455, (0.3457, 0.3585, *p3[2:])).eight_bit(np.full((1, 1, 3), 255), 255)
    assert (white >= 254).all()


# what a file says beside its pixels


def exif_block(orientation=6):
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make], exif[Base.Artist] = orientation, "A Camera", "Somebody"
    exif.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: "2020:01:02 03:04:05", Base.ExifImageWidth: 36})
    exif.get_ifd(IFD.Exif).update(
        {Base.ExifImageHeight: 24, Base.ColorSpace: 65535, Base.MakerNote: b"notes of a maker"}
    )
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 14.5), 3: "E", 4: (11.0, 34.0, 31.0)})
    return exif.tobytes()


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Artist="Somebody"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_xmp_profile_and_resolution_go_over(tmp_path, suffix, caplog):
    source = tmp_path / f"in{suffix}"
    options = {"exif": exif_block(), "icc_profile": srgb_profile(), "dpi": (300, 300)}
    if suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        texts.add_text("parameters", "a prompt")
        options["pnginfo"] = texts
    elif suffix == ".tif":
        exif = Image.Exif()
        exif.load(exif_block())
        exif[700] = XMP
        options["exif"] = exif
    else:
        options["xmp"] = XMP
    as_image().save(source, **options)
    result = through(source, tmp_path / "out")
    exif = result.getexif()
    assert result.size == (48, 72) and exif.get(Base.Orientation, 1) == 1
    assert exif[Base.Make] == "A Camera" and exif[Base.Artist] == "Somebody"
    details = exif.get_ifd(IFD.Exif)
    assert details[Base.DateTimeOriginal] == "2020:01:02 03:04:05" and details[Base.MakerNote] == b"notes of a maker"
    assert (details[Base.ExifImageWidth], details[Base.ExifImageHeight], details[Base.ColorSpace]) == (48, 72, 1)
    assert tuple(map(float, exif.get_ifd(IFD.GPSInfo)[2])) == (48, 8, 14.5)
    xmp = result.info.get("xmp") or result.info["XML:com.adobe.xmp"].encode()
    assert b'tiff:Orientation="1"' in xmp and b"Somebody" in xmp
    assert result.info["icc_profile"] == srgb_profile()
    if suffix != ".webp":
        assert round(float(result.info["dpi"][0])) == 300
    if suffix == ".png":
        assert result.text["parameters"] == "a prompt"
    assert not caplog.text


def test_without_metadata_only_the_profile_goes_over(tmp_path):
    as_image().save(
        tmp_path / "in.jpg", exif=exif_block(), xmp=XMP, icc_profile=srgb_profile(), dpi=(300, 300), comment="hi"
    )
    result = through(tmp_path / "in.jpg", tmp_path / "out", metadata=False)
    assert result.info["icc_profile"] and not {"exif", "xmp", "comment"} & result.info.keys()
    assert b"Camera" not in (tmp_path / "out" / "in.jpg").read_bytes()


def test_iptc_and_comments_of_a_jpeg_stay(tmp_path):
    iptc = b"\x1c\x02\x50\0\x08Somebody"
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + resource
    as_image().save(tmp_path / "in.jpg", extra=b"\xff\xed" + struct.pack(">H", len(body) + 2) + body, comment="a word")
    result = through(tmp_path / "in.jpg", tmp_path / "out")
    assert result.info["photoshop"][0x0404] == iptc and result.info["comment"] == b"a word"


@pytest.mark.parametrize("as_numbers", [False, True])
def test_iptc_of_a_tiff_stays(tmp_path, as_numbers):
    iptc = b"\x1c\x02\x50\0\x07Someone"
    exif = Image.Exif()
    exif[33723] = iptc
    as_image().save(tmp_path / "in.tif", exif=exif)
    data = (tmp_path / "in.tif").read_bytes()
    kind = next(kind for kind in (1, 7) if struct.pack("<HHI", 33723, kind, 12) in data)
    if as_numbers:
        data = data.replace(struct.pack("<HHI", 33723, kind, 12), struct.pack("<HHI", 33723, 4, 3))
        (tmp_path / "in.tif").write_bytes(data)
    assert through(tmp_path / "in.tif", tmp_path / "out").tag_v2[33723] == iptc


def test_what_a_format_has_no_place_for_is_told_in_a_line(tmp_path, caplog):
    as_image().save(tmp_path / "in.jpg", exif=exif_block(), xmp=XMP, icc_profile=srgb_profile(), dpi=(300, 300))
    through(tmp_path / "in.jpg", tmp_path / "out", ".bmp")
    assert caplog.text.count("left out, BMP has no place for them: EXIF, XMP, colour profile") == 1
    through(tmp_path / "in.jpg", tmp_path / "out", ".bmp", quiet=True)
    assert caplog.text.count("left out") == 1


def test_the_old_thumbnail_is_not_shown_and_damaged_exif_is_told(tmp_path, caplog):
    thumbnail = struct.pack(">HHHII", 1, 0x0201, 4, 1, 60) + b"\0\0\0\0"  # a second directory
    block = b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack(">I", len(block) + 4) + thumbnail
    assert for_size(block, 10, 20)[22:26] == b"\0\0\0\0"
    assert for_size(block[:30], 10, 20) is not None and for_size(b"MM\0*\0\0\0\x08\xff\xff", 1, 1) is None
    as_image().save(tmp_path / "in.jpg", exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 900) + b"\0" * 20)
    through(tmp_path / "in.jpg", tmp_path / "out")
    assert caplog.text.count("damaged EXIF") == 1


def test_other_profiles_are_converted_and_told(tmp_path, caplog):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    Image.new("LAB", (36, 24), (150, 140, 120)).save(tmp_path / "in.tif", icc_profile=lab)
    result = through(tmp_path / "in.tif", tmp_path / "out")
    assert result.mode == "RGB" and result.info["icc_profile"] == srgb_profile()
    assert caplog.text.count("to sRGB") == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_a_gray_picture_stays_gray(tmp_path, suffix):
    as_image().convert("L").save(tmp_path / f"in{suffix}")
    result = through(tmp_path / f"in{suffix}", tmp_path / "out")
    assert result.mode == "L" and result.size == (72, 48)


def test_sixteen_bits_are_told_to_become_eight(tmp_path, caplog):
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(tmp_path / "in.png")
    assert through(tmp_path / "in.png", tmp_path / "out").mode == "L"
    assert caplog.text.count("in.png: has 16 bits a sample, the result has 8") == 1
