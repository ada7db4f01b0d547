"""Formats of pictures by their contents, and camera RAW."""

import struct
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from data.media import MediaError, find_media, open_media, open_writer
from data.media.colour import Colour
from data.media.probe import probe
from tests.data.picture_samples import PIXELS, as_image, read, through

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


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16", "I;16"])
def test_a_heic_of_more_than_8_bits_keeps_every_code(tmp_path, monkeypatch, mode, bits):
    """A ramp over all codes: no two become one on the way to the picture that the networks get, nor in the result."""
    heif = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    codes = np.arange(2**bits, dtype=np.uint32).reshape(2 ** (bits - 6), 64)
    channels = {"RGB;16": 3, "RGBA;16": 4, "I;16": 1}[mode]
    given = np.repeat((codes << (16 - bits)).astype(np.uint16)[..., None], channels, 2)
    size, path = (given.shape[1], given.shape[0]), tmp_path / "a.heic"
    lossless = {"quality": -1} | ({"chroma": 444, "matrix_coefficients": 0} if channels > 1 else {})
    heif.encode(mode, size, given.tobytes(), path, **lossless)
    wanted = np.round(codes * 65535 / (2**bits - 1)).astype(np.int64)
    found = probe(path)
    assert (found.depth, found.width, found.height) == (16, *size)
    with open_media(path) as reader:
        (frame,), info = list(reader), reader.info
    assert info.depth == 16 and not reader.notes
    words = frame.planes[0][0].numpy().view(np.uint16).astype(np.int64)
    assert all(np.array_equal(plane[codes > 0], wanted[codes > 0]) for plane in words)  # hidden: alpha 0 is filled
    with open_writer(tmp_path / "a.png", info, size[::-1]) as writer:
        writer.write(frame.planes[0], [0])
    made = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert made.dtype == np.uint16 and len(np.unique(made)) >= 2**bits - 1
    if channels == 4:
        assert np.array_equal(made[..., 3], wanted)


def test_the_numbers_of_a_heic_name_its_colours(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    wanted = {(9, 16): Colour(9, 16), (12, 13): Colour(12, 13), (1, 13): Colour(), (2, 2): Colour()}
    for (primaries, transfer), colour in wanted.items():
        heif.encode(
            "RGB;16", (64, 64), bytes(64 * 64 * 6), tmp_path / "a.heic", color_primaries=primaries,
            transfer_characteristics=transfer, save_nclx_profile=True,
        )  # fmt: skip
        found = probe(tmp_path / "a.heic")
        with open_media(tmp_path / "a.heic") as reader:
            assert reader.info.colour == Colour(found.primaries, found.transfer) == colour


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
