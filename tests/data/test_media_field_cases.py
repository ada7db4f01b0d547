"""Files as cameras, phones and old programs leave them: each is read as far as it can be, and none costs another."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data.media import MediaError, find_media, open_media, output_path
from tests.data.media_round_trip import CLIP, TIMES, frames_of
from tests.data.media_samples import smooth_clip, write_clip


def replaced(path, old, new):
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


# 2: untidy EXIF


def exif_with(tag, kind, count, value):
    """A big-endian EXIF block: orientation 6 and one tag of the given type."""
    entries = struct.pack(">HHII", 0x0112, 3, 1, 6 << 16) + struct.pack(">HHI4s", tag, kind, count, value)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0)


@pytest.mark.parametrize(
    "tag,kind,count,value",
    [(0x011A, 2, 3, b"72\0\0"), (0x0128, 11, 1, struct.pack(">f", 2.5)), (0x9003, 5, 9, b"\xff" * 4)],
    ids=["resolution as text", "float for a number", "behind the end"],
)
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp"])
def test_an_untidy_exif_does_not_keep_a_picture_from_being_turned(tmp_path, suffix, tag, kind, count, value):
    picture = Image.fromarray(CLIP[0].permute(1, 2, 0).contiguous().numpy())
    if suffix == ".tif":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(tmp_path / "in.tif", tiffinfo={0x0112: 6, 0x013B: "x" * 9})
        replaced(tmp_path / "in.tif", struct.pack("<HHI", 0x013B, 2, 10), struct.pack("<HHI", tag, kind, count))
    else:
        picture.save(tmp_path / f"in{suffix}", exif=exif_with(tag, kind, count, value))
    with open_media(tmp_path / f"in{suffix}") as reader:
        (frame,) = reader
    assert tuple(frame.pixels.shape) == (3, 48, 32)
    upright = torch.rot90(CLIP[0], -1, (-2, -1)).float()
    assert (frame.pixels.float() - upright).abs().mean() < 6


# a picture that is not the first track of its file


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".ts", ".flv"])
@pytest.mark.parametrize("before", ["sound", "another picture"])
def test_a_picture_behind_other_tracks_is_read_to_its_last_frame(tmp_path, suffix, before):
    """A decoder holds frames back, with B-frames or with threads, until it is told that its track has ended."""
    if before == "another picture" and suffix in (".flv", ".ts"):
        pytest.skip("FLV has one picture, and no mark says which one of a transport stream counts")
    with av.open(str(tmp_path / "plain.mkv"), "w") as made:
        tracks = [made.add_stream("libx264", rate=25, options={"bf": "3", "b-adapt": "0"})]
        tracks[0].width, tracks[0].height, tracks[0].pix_fmt = 48, 32, "yuv420p"
        if before == "another picture":
            tracks.append(made.add_stream("libx264", rate=25))
            tracks[1].width, tracks[1].height, tracks[1].pix_fmt = 24, 16, "yuv420p"
        tone = made.add_stream("aac", rate=48_000, layout="mono")
        for picture in CLIP:
            rgb = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            for track in tracks:
                made.mux(track.encode(rgb.reformat(track.width, track.height, "yuv420p")))
        for track in tracks:
            made.mux(track.encode(None))
        for start in range(0, 48_000, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48_000, start
            made.mux(tone.encode(sound))
        made.mux(tone.encode(None))
    path = tmp_path / f"behind{suffix}"
    with av.open(str(tmp_path / "plain.mkv")) as plain, av.open(str(path), "w") as turned:
        streams = sorted(plain.streams, key=lambda stream: -stream.index)
        targets = {stream.index: turned.add_stream_from_template(stream, opaque=True) for stream in streams}
        for index, target in targets.items():
            target.disposition = 1 if index == 0 else 0
        for packet in plain.demux(streams):
            if packet.size:
                packet.stream = targets[packet.stream_index]
                turned.mux(packet)
    with open_media(path) as reader:
        assert (reader.info.width, reader.info.height) == (48, 32)
        assert sum(1 for _ in reader) == len(CLIP) and reader.damage is None


# 3: whatever a decoder raises


class Strange(Exception):
    """Not of any kind that a reader could expect."""


@pytest.mark.parametrize("error", [IndexError("i"), struct.error("s"), TypeError("t"), MemoryError(), Strange("x")])
def test_whatever_a_decoder_raises_is_a_sentence_about_the_file(tmp_path, monkeypatch, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_clip(tmp_path / "a.mp4", CLIP[:3], TIMES[:3])

    def fail(*args, **options):
        raise error

    with monkeypatch.context() as patch, pytest.raises(MediaError, match=r"^a\.png: ") as caught:
        patch.setattr(Image.Image, "convert", fail)
        open_media(tmp_path / "a.png")
    assert caught.value.__cause__ is error
    with open_media(tmp_path / "a.mp4") as reader, pytest.raises(MediaError, match=r"^a\.mp4: ") as caught:
        monkeypatch.setattr("data.media.video_reader.planes_of", fail)
        list(reader)
    assert caught.value.__cause__ is error


def test_a_missing_right_is_told_as_such(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(MediaError, match=r"^a\.png: cannot be read \(Permission denied\); check"):
        open_media(tmp_path / "a.png")


def test_control_characters_of_a_name_are_escaped(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.mp4"
    path.write_bytes(b"no clip")
    with pytest.raises(MediaError) as caught:
        open_media(path)
    assert str(caught.value).startswith("a\\x1b[31m\\nb.mp4: ") and str(caught.value).isprintable()


# 6: cut files


@pytest.mark.parametrize(
    "suffix,codec", [(".avi", "mpeg4"), (".mkv", "libx264"), (".webm", "libvpx"), (".wmv", "wmv2")]
)
@pytest.mark.parametrize("audio", [False, True], ids=["mute", "sound"])
def test_a_cut_clip_is_refused_with_both_numbers(tmp_path, suffix, codec, audio):
    sound = (
        {".avi": "mp3", ".mkv": "aac", ".webm": "libopus", ".wmv": "libmp3lame", ".flv": "aac"}[suffix]
        if audio
        else None
    )
    moving = torch.randint(0, 256, (25, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = write_clip(tmp_path / f"whole{suffix}", moving, TIMES, codec=codec, ticks=25, audio=sound)
    assert frames_of(whole) == 25
    data, cut = whole.read_bytes(), tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(MediaError, match=r"^cut\.\w+: only \d+ of (about )?2\d frames could be decoded"):
        frames_of(cut)


def test_a_header_that_promises_more_than_there_is_is_told(tmp_path):
    source = write_clip(tmp_path / "in.avi", CLIP, TIMES, codec="mpeg4", ticks=25)
    replaced(source, b"vids" + source.read_bytes()[source.read_bytes().index(b"vids") + 4 :][:44], _with_length(source))
    with open_media(source) as reader:
        assert sum(1 for _ in reader) == 25
    assert reader.damage == "in.avi: the header promises 90 frames; 25 frames were read"


def _with_length(source):
    data = source.read_bytes()
    start = data.index(b"vids")
    header = bytearray(data[start : start + 48])
    header[32:36] = struct.pack("<I", 90)
    return bytes(header)


def test_sound_that_outlasts_the_picture_is_no_damage(tmp_path):
    source = tmp_path / "in.mkv"
    write_clip(tmp_path / "short.mkv", CLIP, TIMES, audio="aac")
    write_clip(tmp_path / "long.mkv", CLIP, [t * 4 for t in TIMES], audio="aac", rate=Fraction(25, 4))
    with (
        av.open(str(tmp_path / "short.mkv")) as a,
        av.open(str(tmp_path / "long.mkv")) as b,
        av.open(str(source), "w") as out,
    ):
        streams = [(a, a.streams.video[0]), (b, b.streams.audio[0])]
        targets = [out.add_stream_from_template(s, opaque=True) for _, s in streams]
        for (container, stream), target in zip(streams, targets, strict=True):
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = target
                    out.mux(packet)
    with open_media(source) as reader:
        assert sum(1 for _ in reader) == 25 and reader.damage is None


# 11: several video tracks


def two_videos(path, sizes, defaults):
    with av.open(str(path), "w") as container:
        streams = []
        for (width, height), default in zip(sizes, defaults, strict=True):
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for stream in streams:
            for picture in smooth_clip(3, stream.height, stream.width):
                frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "defaults,width", [((0, 0), 96), ((1, 0), 48), ((0, 1), 96), ((1, 1), 96)], ids=["none", "small", "large", "both"]
)
def test_of_several_video_tracks_the_default_one_or_the_largest_is_taken(tmp_path, caplog, defaults, width):
    two_videos(tmp_path / "in.mkv", ((48, 32), (96, 64)), defaults)
    with open_media(tmp_path / "in.mkv") as reader:
        assert reader.info.width == width and all(frame.pixels.shape[-1] == width for frame in reader)
    assert caplog.text.count("holds 2 video tracks") == 1


# 12 and 14: folders


def test_names_and_contents_are_known_alike_in_a_folder_and_by_name(tmp_path):
    picture = Image.fromarray(CLIP[0].permute(1, 2, 0).contiguous().numpy())
    for name, kind in (("a.jfif", "JPEG"), ("b.jpg_large", "JPEG"), ("c.png!d", "PNG"), ("d.PJPEG", "JPEG")):
        picture.save(tmp_path / name, format=kind)
    write_clip(tmp_path / "e.mp4", CLIP[:3], TIMES[:3]).rename(tmp_path / "e.mp4_1")
    write_clip(tmp_path / "f.ts", CLIP[:3], TIMES[:3]).rename(tmp_path / "f.record")
    write_clip(tmp_path / "g.avi", CLIP[:3], TIMES[:3], codec="mpeg4", ticks=25).rename(tmp_path / "g.movie")
    others = {
        "s.srt": "subtitle",
        "m.mp3": "sound",
        "r.dng": "RAW",
        "t.txt": "text",
        "z.zip": "archive",
        "x.abc": "not a",
    }
    for name in others:
        (tmp_path / name).write_bytes(b"II*\0 something else")
    (tmp_path / "x.abc").write_bytes(b"letters")
    media, skipped = find_media(tmp_path)
    assert [p.name for p in media] == ["a.jfif", "b.jpg_large", "c.png!d", "d.PJPEG", "e.mp4_1", "f.record", "g.movie"]
    for path in media:
        open_media(path).close()
    for path, why in skipped:
        assert others[path.name] in why


def test_side_files_take_no_name(tmp_path):
    source = write_clip(tmp_path / "a.mkv", CLIP[:3], TIMES[:3])
    for suffix in (".srt", ".txt", ".mp3", ".json"):
        (tmp_path / f"a{suffix}").write_text("beside")
    info = open_media(source).info
    assert output_path(source, tmp_path / "out", info).name == "a.mp4"
    (tmp_path / "a.gif").write_bytes(b"GIF8")
    assert output_path(source, tmp_path / "out", info).name == "a_mkv.mp4"


# 25: noise


def test_concealed_damage_is_told_and_nothing_is_printed(tmp_path, capfd, caplog):
    noisy = torch.randint(0, 256, (20, 3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    source = write_clip(tmp_path / "in.mp4", noisy, TIMES[:20])
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    position, size = places[9]
    data[position + size // 3 : position + size // 3 + 400] = b"\xff" * 400
    source.write_bytes(data)
    with open_media(source) as reader:
        assert sum(1 for _ in reader) == 20
    assert "patched up" in reader.damage and reader.damage.startswith("in.mp4: ")
    damaged = tmp_path / "damaged.tif"
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(damaged, compression="tiff_lzw")
    with Image.open(damaged) as image:
        strip = image.tag_v2[273][0]
    data = bytearray(damaged.read_bytes())
    data[strip + 20 : strip + 200] = b"\xff" * 180
    damaged.write_bytes(data)
    with pytest.raises(MediaError, match=r"^damaged\.tif: "):
        open_media(damaged)
    os.write(2, b"still there")
    captured = capfd.readouterr()
    assert captured.err == "still there" and not captured.out and not caplog.text


def test_a_second_reader_of_a_file_tells_nothing_twice(tmp_path, caplog):
    two_videos(tmp_path / "in.mkv", ((48, 32), (96, 64)), (0, 0))
    with open_media(tmp_path / "in.mkv") as reader, reader.reopened() as other:
        pairs = [(a.time, b.time) for a, b in zip(reader, other, strict=True)]
    assert len(pairs) == 3 and caplog.text.count("video tracks") == 1
