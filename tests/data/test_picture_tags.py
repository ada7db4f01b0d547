"""What the file of a picture says beside its pixels."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from data.media import OutputOptions, open_media, open_writer
from data.media.picture_tags import StoredText, for_size, kept_as_found, srgb_profile
from tests.data.picture_samples import as_image, through


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
    result = through(tmp_path / "in.jpg", tmp_path / "out", options=OutputOptions(metadata=False))
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
    assert for_size(b"IM" + block[2:], 10, 20) is None  # neither little nor big endian
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


def test_sixteen_bits_stay_so_where_the_format_has_them(tmp_path, caplog):
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(tmp_path / "in.png")
    assert through(tmp_path / "in.png", tmp_path / "out").mode == "I;16" and not caplog.text
    assert through(tmp_path / "in.png", tmp_path / "out", suffix=".jpg").mode == "L"
    assert caplog.text.count("in.png: has 16 bits a sample, the result has 8") == 1
    Image.fromarray(np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)).save(tmp_path / "in.tif")
    assert through(tmp_path / "in.tif", tmp_path / "out").mode == "L"
    assert caplog.text.count("in.tif: has floats as samples, the result has 8 bits") == 1


def test_texts_of_a_tiff_keep_their_bytes_and_comments_their_kind(tmp_path):
    exif, name, lens = Image.Exif(), "Kamera é".encode(), "Objektiv ü 二".encode()
    exif[Base.Model] = StoredText(name.decode("latin-1"))
    exif.get_ifd(IFD.Exif).update(
        {Base.LensModel: StoredText(lens.decode("latin-1")), Base.UserComment: (bytearray(b"UNICODE\0h\0i"),)}
    )
    loaded = Image.Exif()  # only directories that were read are written into a TIFF
    loaded.load(exif.tobytes())
    Image.effect_noise((32, 24), 60).convert("RGB").save(tmp_path / "in.tif", exif=kept_as_found(loaded))
    with open_media(tmp_path / "in.tif") as reader:
        with open_writer(tmp_path / "out.tif", reader.info, (24, 32)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    for path in (tmp_path / "in.tif", tmp_path / "out.tif"):
        content = path.read_bytes()
        order = "<" if content[:2] == b"II" else ">"
        assert name + b"\0" in content and lens + b"\0" in content and b"UNICODE\0h\0i" in content
        for tag, kind in ((Base.Model, 2), (Base.LensModel, 2), (Base.UserComment, 7)):
            assert struct.pack(f"{order}HH", tag, kind) in content
