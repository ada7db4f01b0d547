"""Times that files tell wrongly: fast animations, clocks that jump, decode times, absurd rates and durations."""

import itertools
import struct
from dataclasses import replace
from fractions import Fraction

import av
import pytest
from PIL import Image

from data.media import open_media, open_writer
from data.media.animation_delays import shown_for
from data.media.clock import nominal_rate
from data.media.clock_jumps import ClockJumps
from tests.data.media_samples import even_times, smooth_clip, write_clip

CLIP, TIMES = smooth_clip(25, 32, 48), even_times(25)


def times_of(path):
    with open_media(path) as reader:
        return [frame.time for frame in reader], reader


def pictures(count):
    return [Image.new("RGB", (16, 16), (20 * index, 90, 160)) for index in range(count)]


# fast animations


@pytest.mark.parametrize(
    "picture_format,delay,seconds",
    [("GIF", 10, "0.1"), ("GIF", 20, "0.02"), ("PNG", 10, "0.01"), ("WEBP", 1, "0.001"), ("AVIF", 0, "0.1")],
)
def test_only_delays_of_gifs_up_to_10_ms_are_stretched(picture_format, delay, seconds):
    assert shown_for(delay, picture_format) == Fraction(seconds)


@pytest.mark.parametrize("suffix,delay", [(".png", 1000 / 60), (".webp", 16), (".avif", 8)])
def test_fast_animations_keep_their_speed(tmp_path, suffix, delay):
    first, *others = pictures(6)
    first.save(tmp_path / f"fast{suffix}", save_all=True, append_images=others, duration=delay, lossless=True)
    times, reader = times_of(tmp_path / f"fast{suffix}")
    step = Fraction(delay).limit_denominator(1000) / 1000
    assert times == [index * step for index in range(6)] and reader.info.frame_rate == 1 / step


def test_delays_of_an_avif_are_those_of_its_track(tmp_path):
    first, *others = pictures(6)
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=10)
    data = (tmp_path / "a.avif").read_bytes()
    place = data.rindex(b"mdhd") + 4
    version = data[place]
    clock = place + (20 if version else 12)
    assert struct.unpack_from(">I", data, clock) == (1000,)
    (tmp_path / "a.avif").write_bytes(data[:clock] + struct.pack(">I", 600) + data[clock + 4 :])  # 10/600 s a frame
    times, _ = times_of(tmp_path / "a.avif")
    assert times == [Fraction(index, 60) for index in range(6)]


def test_the_hidden_picture_of_an_animated_png_is_left_out(tmp_path):
    hidden, *frames = pictures(5)
    hidden.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=[40] * 4)
    with open_media(tmp_path / "a.png") as reader:
        shown = list(reader)
    assert [frame.time for frame in shown] == even_times(4) and reader.info.frame_count_hint == 4
    assert [int(frame.pixels[0, 0, 0]) for frame in shown] == [20, 40, 60, 80]


# decode times as display times


@pytest.mark.parametrize("suffix", [".mxf", ".wmv", ".avi"])
@pytest.mark.parametrize("codec,options", [("libx264", {"bf": "3", "b-adapt": "0"}), ("mpeg4", {"bf": "2"})])
def test_frames_whose_display_times_are_lost_are_shown_evenly(tmp_path, suffix, codec, options):
    """What a frame shows says which one it is: each is brighter than the one before."""
    if (suffix, codec) == (".mxf", "mpeg4"):
        pytest.skip("FFmpeg writes none")
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(25):
            gray = av.VideoFrame(64, 48, "gray")
            gray.planes[0].update(bytes([20 + 8 * index]) * gray.planes[0].buffer_size)
            container.mux(stream.encode(gray.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    with open_media(path) as reader:
        frames = list(reader)
    steps = [b.time - a.time for a, b in itertools.pairwise(frames)]
    assert len(frames) == 25 and set(steps[1:]) == {Fraction(1, 25)} and steps[0] in (Fraction(1, 25), Fraction(2, 25))
    bright = [int(frame.pixels.float().mean()) for frame in frames]
    assert bright == sorted(bright) and reader.damage is None


# clocks that jump


def glued(path, jump_s, *, sound=True, sound_goes_on=False):
    """A clip of two halves; the second one begins `jump_s` later than it should."""
    source = write_clip(path.with_name("whole.mp4"), CLIP, TIMES, audio="aac" if sound else None)
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        streams = {s.index: container.add_stream_from_template(s, opaque=True) for s in original.streams}
        for packet in original.demux():
            if packet.size:
                half = packet.dts * packet.time_base >= Fraction(1, 2)
                late = round(jump_s / packet.time_base) if half else 0
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
                packet.stream = streams[packet.stream_index]
                container.mux(packet)
    return path


@pytest.mark.parametrize("jump_s", [3, 7, 1000, 50_000])
@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mov", ".flv", ".mkv"])
def test_a_clock_that_jumps_with_the_sound_is_closed_to_one_step(tmp_path, suffix, jump_s):
    """In an MP4 what stands before the jump claims to last until its end, and the mean rate has the jump in it."""
    if suffix in (".mp4", ".mov") and jump_s * 90_000 >= 2**32:
        pytest.skip("a sample of an MP4 has 32 bits for its length")
    path = glued(tmp_path / f"glued{suffix}", jump_s)
    times, reader = times_of(path)
    assert [b - a for a, b in itertools.pairwise(times)] == [Fraction(1, 25)] * 24
    assert f"the clock jumps by {jump_s}.0" in reader.damage and "25 frames were read" in reader.damage
    assert "promises" not in reader.damage
    with open_media(path) as reader, open_writer(tmp_path / "out.mp4", reader.info, (32, 48)) as writer:
        for frame in reader:
            writer.write(frame.pixels[None], [frame.time])
    with av.open(str(tmp_path / "out.mp4")) as result:
        ends = [float((s.start_time + s.duration) * s.time_base) for s in result.streams]
    assert all(abs(end - 1) < 0.15 for end in ends)


def test_a_picture_that_really_stands_still_stays(tmp_path):
    mute = glued(tmp_path / "mute.ts", 30, sound=False)
    assert max(times_of(mute)[0]) > 30
    video = Stream(0, Fraction(25))
    jumps = ClockJumps(video)
    for second in range(20):  # sound all along, and two pictures
        if second in (0, 19):
            jumps.push(packet(0, second, 0.04))
        jumps.push(packet(1, second, 1))
    assert jumps.found == []
    for heard in (range(3), range(12, 15)):  # a song of three seconds, at its beginning or at its end
        jumps = ClockJumps(video)
        for second in range(20):
            if second in (0, 3, 12, 19):
                jumps.push(packet(0, second, 0.04))
            if second in heard:
                jumps.push(packet(1, second, 1))
        assert jumps.found == []


class Stream:
    def __init__(self, index, rate):
        self.index, self.average_rate, self.base_rate, self.guessed_rate = index, rate, rate, rate


class Packet:
    pass


def packet(stream, seconds, duration):
    one = Packet()
    one.stream_index, one.time_base, one.size = stream, Fraction(1, 1000), 10
    one.pts = one.dts = round(1000 * seconds)
    one.duration = round(1000 * duration)
    return one


# decode times, absurd rates


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_avi_with_b_frames_has_even_times_from_zero(tmp_path, codec):
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        options = (
            {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=normal"} if codec == "libx264" else {"bf": "2"}
        )
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in CLIP:
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:  # it is what it is meant to be: frames in another order than packets
        order = [f.pts for f in container.decode(video=0)]
    assert codec == "mpeg4" or order != sorted(order)
    with open_media(path) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == TIMES
    assert all(
        (frame.pixels.float() - picture.float()).abs().mean() < 12 for frame, picture in zip(frames, CLIP, strict=True)
    )


def test_an_average_rate_that_no_frame_supports_gives_way_to_the_base_rate():
    stream = Stream(0, Fraction(25))
    stream.average_rate = Fraction(60_000)
    assert nominal_rate(stream) == (25, False)


@pytest.mark.parametrize("size,rate", [((576, 720), Fraction(25)), ((480, 720), Fraction(30000, 1001))])
def test_raw_dv_has_its_rate(tmp_path, size, rate):
    path = tmp_path / "tape.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=rate)
        stream.width, stream.height = size[1], size[0]
        stream.pix_fmt = "yuv420p" if size[0] == 576 else "yuv411p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(*reversed(size), stream.pix_fmt)))
        container.mux(stream.encode(None))
    times, reader = times_of(path)
    assert times == even_times(5, rate) and reader.info.frame_rate == rate and reader.info.frame_count_hint == 5


@pytest.mark.parametrize("codec", ["aac", "flac"])
def test_a_last_packet_of_sound_that_claims_hours_lasts_one_step(tmp_path, codec):
    source = write_clip(tmp_path / "good.mkv", CLIP, TIMES, audio=codec)
    path = tmp_path / "absurd.mkv"
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        streams = {s.index: container.add_stream_from_template(s, opaque=True) for s in original.streams}
        packets = [packet for packet in original.demux() if packet.size]
        last = max((p for p in packets if p.stream.type == "audio"), key=lambda p: p.pts)
        for packet in packets:
            if packet is last:
                packet.duration = 97_391_000
            packet.stream = streams[packet.stream_index]
            container.mux(packet)
    with open_media(path) as reader, open_writer(tmp_path / "out.mkv", reader.info, (32, 48)) as writer:
        for frame in reader:
            writer.write(frame.pixels[None], [frame.time])
    with av.open(str(path)) as absurd, av.open(str(tmp_path / "out.mkv")) as result:
        assert absurd.duration > 3600 * av.time_base and result.duration < 1.2 * av.time_base


def test_a_last_frame_that_claims_to_last_for_hours_lasts_one_step(tmp_path):
    path = write_clip(tmp_path / "vfr.mp4", CLIP[:4], [Fraction(t, 100) for t in (0, 4, 11, 15)], rate=Fraction(25))
    with open_media(path) as reader:
        info = replace(reader.info, variable_frame_rate=True, duration=Fraction(100_000))
        with open_writer(tmp_path / "out.mp4", info, (32, 48)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    with av.open(str(tmp_path / "out.mp4")) as result:
        assert result.streams.video[0].duration * result.streams.video[0].time_base < Fraction(1, 4)


def test_an_empty_packet_repeats_a_picture_and_is_no_damage(tmp_path):
    """As encoders of Theora and recorders of AVI write where nothing moves; a decoder would take it for the end."""
    source, target = write_clip(tmp_path / "clip.mkv", smooth_clip(12, 32, 48), even_times(12)), tmp_path / "gap.nut"
    with av.open(str(source)) as original, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(original.streams.video[0])
        for number, packet in enumerate(original.demux(video=0)):
            if packet.size:
                kept = av.Packet(b"") if number == 6 else packet
                kept.pts, kept.dts, kept.time_base, kept.stream = packet.pts, packet.dts, packet.time_base, stream
                container.mux(kept)
    with open_media(target) as reader:
        times = [frame.time for frame in reader]
    assert times == [t for number, t in enumerate(even_times(12)) if number != 6] and reader.damage is None
