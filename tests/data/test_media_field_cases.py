"""Files as cameras, phones and old programs leave them: none costs another, and no fault of sound costs the picture."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data.media import MediaError, find_media, open_media, open_writer, output_path
from data.media.names import carries
from data.media.sound_plan import plan_sound
from data.media.sound_times import RisingTimes
from tests.data.media_samples import audio_packets, even_times, smooth_clip, write_clip

CLIP, TIMES = smooth_clip(25, 32, 48), even_times(25)


def through(source, folder):
    """(path of the result, reader) of a file that goes through reader and writer."""
    with open_media(source) as reader:
        target = output_path(source, folder, reader.info)
        with open_writer(target, reader.info, (32, 48)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None, :, :32, :48], [frame.time])
    return target, reader


def sound_of(path):
    with av.open(str(path)) as container:
        return [(s.codec_context.name, float((s.duration or 0) * s.time_base)) for s in container.streams.audio]


def frames_of(path):
    with open_media(path) as reader:
        return sum(1 for _ in reader)


def replaced(path, old, new):
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


# 1: sound of a codec that nobody knows


def test_an_unknown_sound_codec_costs_its_track_only(tmp_path, caplog):
    source = write_clip(tmp_path / "phone.mp4", CLIP, TIMES, audio="aac")
    two = tmp_path / "two.mp4"  # a MOV would name the codec twice
    with av.open(str(source)) as original, av.open(str(two), "w") as container:
        streams = {s.index: [container.add_stream_from_template(s)] for s in original.streams}
        sound = original.streams.audio[0]
        streams[sound.index].append(container.add_stream_from_template(sound))
        for packet in original.demux():
            for stream in streams[packet.stream.index] if packet.size else ():
                packet.stream = stream
                container.mux(packet)
    data = bytearray(two.read_bytes())
    last = data.rindex(b"mp4a")
    data[last : last + 4] = b"apac"
    last = data.rindex(b"esds")  # which would tell the codec all the same
    data[last : last + 4] = b"free"
    two.write_bytes(data)
    target, reader = through(two, tmp_path / "out")
    assert reader.info.audio_codecs == ("aac",) and len(sound_of(target)) == 1 and frames_of(target) == 25
    assert caplog.text.count("two.mp4: sound track 2 of 2 is left out, its codec is not known") == 1


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
        monkeypatch.setattr("data.media.video_reader.to_rgb", fail)
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


# 4: damaged sound


def ticking(times, durations=1024, payloads=None):
    packets = []
    for number, time in enumerate(times):
        packet = av.Packet(bytes([number % 256, number // 256]) if payloads is None else payloads[number])
        packet.pts = packet.dts = time
        packet.duration, packet.time_base = durations, Fraction(1, 48_000)
        packets.append(packet)
    return packets


def placed(times, **options):
    clock = RisingTimes(Fraction(1, 48_000), Fraction(0))
    out = [clock.push(packet) for packet in (*ticking(times, **options), None)]
    return [packet.dts for packet in out if packet is not None], clock


STEADY = [1024 * k for k in range(12)]


def test_steady_times_and_real_gaps_stay(tmp_path):
    gap = [t + 96_000 * (t > 5000) for t in STEADY]
    assert placed(STEADY)[0] == STEADY and placed(gap)[0] == gap
    assert placed([None if t == 3072 else t for t in STEADY])[0] == STEADY


def test_times_that_do_not_rise_are_made_to(tmp_path):
    twice = [*STEADY[:5], STEADY[4], *STEADY[6:]]
    assert placed(twice)[0] == STEADY and placed(twice)[1].moved == 1
    times, clock = placed(STEADY + STEADY)  # glued: the clock starts again
    assert times == [1024 * k for k in range(24)][:12] + times[12:] and clock.skipped + clock.joined > 0
    long = [1024 * k for k in range(100)]
    times, clock = placed(long + long)
    assert times == [1024 * k for k in range(200)] and clock.joined == 1 and clock.skipped == 0
    nowhere = [*STEADY[:5], 10**9, *STEADY[6:]]
    assert placed(nowhere)[0] == STEADY and placed([*STEADY[:5], -(10**9), *STEADY[6:]])[0] == STEADY


def test_repeated_packets_are_left_out(tmp_path):
    times = [time for time in STEADY for _ in range(2)]
    out, clock = placed(times, payloads=[bytes([t // 1024]) for t in times])
    assert out == STEADY and clock.skipped == len(STEADY)


def damaged_sound(source, target, packets, byte=0xFF):
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    data = bytearray(source.read_bytes())
    for number in packets:
        position, size = places[number]
        data[position : position + size] = bytes([byte]) * size
    target.write_bytes(data)
    return target


def test_sound_with_a_damaged_header_in_it_is_told_and_the_picture_stays(tmp_path, caplog):
    source = write_clip(tmp_path / "in.ts", CLIP, TIMES, audio="aac")
    data = bytearray(source.read_bytes())
    start = -1
    for _ in range(20):
        start = data.index(b"\xff\xf1", start + 1)  # an ADTS header
    data[start : start + 2] = b"\0\0"
    source.write_bytes(data)
    target, _ = through(source, tmp_path / "out")
    assert frames_of(target) == 25 and sound_of(target)[0][1] > 0.4  # the rest is one packet for FFmpeg's parser
    assert caplog.text.count("sound track 1 (aac): 1 packet was damaged and left out") == 1


@pytest.mark.parametrize(
    "codec,suffix,result",
    [("aac", ".mp4", ".mp4"), ("ac3", ".mp4", ".mp4"), ("pcm_s16le", ".mov", ".mov"), ("eac3", ".ts", ".mp4"),
     ("adpcm_ima_wav", ".avi", ".mp4")],
)  # fmt: skip
@pytest.mark.parametrize("byte", [0, 0xFF])
def test_sound_that_is_noise_throughout_never_costs_the_picture(tmp_path, codec, suffix, result, byte):
    video = "mpeg4" if suffix == ".avi" else "libx264"
    ticks = 25 if video != "libx264" else 90_000
    source = write_clip(tmp_path / f"in{suffix}", CLIP, TIMES, audio=codec, codec=video, ticks=ticks)
    damaged_sound(source, tmp_path / f"bad{suffix}", range(1, 18), byte)
    target, _ = through(tmp_path / f"bad{suffix}", tmp_path / "out")
    assert target.suffix == result and frames_of(target) == 25


def test_a_muxer_that_fails_on_the_sound_leaves_the_picture_and_a_line(tmp_path, monkeypatch, caplog):
    source = write_clip(tmp_path / "in.mp4", CLIP, TIMES, audio="aac")

    def fail(*args):
        raise RuntimeError("the muxer is in a bad state")

    monkeypatch.setattr("data.media.sound_tracks.CopiedTrack.write", fail)
    target, _ = through(source, tmp_path / "out")
    assert frames_of(target) == 25 and sound_of(target) == []
    assert caplog.text.count("sound track 1 (aac) is left out") == 1
    assert [p.name for p in target.parent.iterdir()] == ["in.mp4"]


def test_of_several_tracks_only_the_one_that_fails_is_left_out(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "one.mkv", CLIP, TIMES, audio="aac")
    with av.open(str(source)) as original, av.open(str(tmp_path / "three.mkv"), "w") as container:
        video = container.add_stream_from_template(original.streams.video[0], opaque=True)
        sounds = [container.add_stream_from_template(original.streams.audio[0]) for _ in range(3)]
        for packet in original.demux():
            for stream in [] if not packet.size else [video] if packet.stream.type == "video" else sounds:
                packet.stream = stream
                container.mux(packet)
    from data.media.sound_tracks import CopiedTrack

    write = CopiedTrack.write

    def fail_on_the_second(self, packet):
        if self.track.name.startswith("sound track 2"):
            raise RuntimeError("no")
        write(self, packet)

    monkeypatch.setattr(CopiedTrack, "write", fail_on_the_second)
    target, _ = through(tmp_path / "three.mkv", tmp_path / "out")
    assert len(sound_of(target)) == 2 and frames_of(target) == 25


def test_frames_that_cannot_be_completed_are_kept_and_the_message_says_where(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", CLIP, TIMES, audio="aac")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.media.sound_mux._mux", full)
    with pytest.raises(MediaError, match=r"^in\.mp4: .*No space left.* in in\.without_sound\.mp4"):
        through(source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["in.without_sound.mp4"]
    assert frames_of(tmp_path / "out" / "in.without_sound.mp4") == 25


def test_matroska_keeps_rate_and_times_when_sound_is_added(tmp_path):
    rate = Fraction(30000, 1001)
    source = write_clip(tmp_path / "in.mkv", CLIP, even_times(25, rate), rate=rate, ticks=30_000, audio="tta")
    target, _ = through(source, tmp_path / "out")
    with open_media(target) as reader:
        assert target.suffix == ".mkv" and reader.info.frame_rate == rate
        assert [frame.time for frame in reader] == even_times(25, rate)
    assert audio_packets(target) == audio_packets(source)


# 5: sounds that nothing carries


@pytest.mark.parametrize(
    "codec,suffix", [("wmav2", ".asf"), ("adpcm_ima_wav", ".avi"), ("adpcm_ms", ".avi"), ("nellymoser", ".flv")]
)
def test_sound_that_no_container_takes_becomes_aac(tmp_path, caplog, codec, suffix):
    video = {".asf": "wmv2", ".avi": "mpeg4", ".flv": "flv"}[suffix]
    source = tmp_path / f"in{suffix}"
    rate = 44_100 if codec == "nellymoser" else 48_000
    with av.open(str(source), "w") as container:
        stream = container.add_stream(video, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="mono", bit_rate=64_000)
        for picture in CLIP:
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        tone = np.sin(np.arange(rate) / 20).astype(np.float32)[None] * 0.5
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with open_media(source) as reader:
        tracks, notes = plan_sound(reader.info, ".mp4")
    assert [track.how for track in tracks] == ["aac"] and not carries(".mp4", codec)
    target, _ = through(source, tmp_path / "out")
    ((name, seconds),) = sound_of(target)
    assert name == "aac" and abs(seconds - 1) < 0.15 and target.suffix == ".mp4"
    assert caplog.text.count("re-encoded as AAC") == 1 and notes[0].startswith(source.name)
    with av.open(str(target)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert 0.2 < np.sqrt((heard[8000:30000] ** 2).mean()) < 0.5  # the tone, not silence


@pytest.mark.parametrize("seconds", [Fraction(3, 50), Fraction(1, 2)])
def test_sound_that_starts_late_is_late_as_aac_too(tmp_path, seconds):
    """Also a gap in the middle stays, as silence."""
    original = write_clip(tmp_path / "a.mkv", CLIP, TIMES, audio="pcm_s16le")
    source, shift = tmp_path / "late.mkv", round(seconds * 1000)
    with av.open(str(original)) as container, av.open(str(source), "w") as late:
        streams = {s.index: late.add_stream_from_template(s, opaque=True) for s in container.streams}
        for packet in container.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    moved = shift + 300 * (packet.pts >= 400)
                    packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
                packet.stream = streams[packet.stream.index]
                late.mux(packet)
    with open_media(source) as reader, open_writer(tmp_path / "out.mp4", reader.info, (32, 48)) as writer:
        for frame in reader:
            writer.write(frame.pixels[None], [frame.time])
    with av.open(str(tmp_path / "out.mp4")) as container:
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    loud = np.flatnonzero(np.abs(heard) > 0.1) / 48_000  # seconds
    gaps = np.diff(loud)
    assert abs(loud[0] - float(seconds)) < 0.01
    assert abs(gaps.max() - 0.3) < 0.03 and abs(loud[gaps.argmax()] - float(seconds) - 0.4) < 0.05


def test_a_clock_that_jumps_makes_no_hours_of_silence(tmp_path):
    original = write_clip(tmp_path / "a.mkv", CLIP, TIMES, audio="pcm_s16le")
    with av.open(str(original)) as container, av.open(str(tmp_path / "jump.mkv"), "w") as late:
        streams = {s.index: late.add_stream_from_template(s, opaque=True) for s in container.streams}
        for packet in container.demux():
            if packet.size:
                if packet.stream.type == "audio" and packet.pts >= 400:
                    packet.pts = packet.dts = packet.pts + 3_000_000
                packet.stream = streams[packet.stream.index]
                late.mux(packet)
    with (
        open_media(tmp_path / "jump.mkv") as reader,
        open_writer(tmp_path / "out.mp4", reader.info, (32, 48)) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels[None], [frame.time])
    assert sound_of(tmp_path / "out.mp4")[0][1] < 12 and frames_of(tmp_path / "out.mp4") == 25


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
    with open_media(tmp_path / "in.mkv") as reader, reader.again() as other:
        pairs = [(a.time, b.time) for a, b in zip(reader, other, strict=True)]
    assert len(pairs) == 3 and caplog.text.count("video tracks") == 1
