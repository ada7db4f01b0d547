"""Sound as phones and broken recorders leave it: it is kept where it can be, and never costs the picture."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from data.media import MediaError, open_media, open_writer
from data.media.names import carries
from data.media.sound_plan import plan_sound
from data.media.sound_times import RisingTimes
from data.media.sound_tracks import packet_seconds
from tests.data.media_round_trip import CLIP, TIMES, frames_of, sound_of, through
from tests.data.media_samples import audio_packets, even_times, write_clip

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


def test_packets_shorter_than_a_tick_keep_their_times_and_number():
    """TrueHD in Matroska: 1200 packets a second on a clock of milliseconds, silence in all of them."""
    clock, packets = RisingTimes(Fraction(1, 1000), Fraction(0), Fraction(40, 48_000)), []
    for number in range(12_000):
        packet = av.Packet(b"silence")
        packet.pts = packet.dts = number * 5 // 6
        packet.time_base = Fraction(1, 1000)
        packets.append(packet)
    placed = [packet for packet in map(clock.push, (*packets, None)) if packet is not None]
    assert len(placed) == 12_000 and (clock.moved, clock.skipped, clock.joined) == (0, 0, 0)
    ticks = [packet.dts for packet in placed]
    assert all(a < b for a, b in pairwise(ticks))
    errors = [abs(packet.dts * packet.time_base - Fraction(n, 1200)) for n, packet in enumerate(placed)]
    assert max(errors) <= Fraction(1, 1000)


@pytest.mark.parametrize(
    "codec,suffix,expected", [("aac", ".mkv", Fraction(1024, 48_000)), ("pcm_s16le", ".mov", None)]
)
def test_only_packets_of_one_length_say_how_long_they_are(tmp_path, codec, suffix, expected):
    path = write_clip(tmp_path / f"clip{suffix}", CLIP, TIMES, audio=codec)
    with av.open(str(path)) as container:
        assert packet_seconds(container.streams.audio[0]) == expected


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

    monkeypatch.setattr("data.media.mux._mux", full)
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
    assert [track.how for track in tracks] == ["encode"] and not carries(".mp4", codec)
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
