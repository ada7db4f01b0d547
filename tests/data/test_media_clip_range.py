"""A part of a clip: its frames are the whole clip's, and what stands beside the picture is cut with it."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data.media import ClipRange, MediaError, open_media, open_writer, output_path
from data.media.clip_range import frames_of, seconds_of
from data.media.timecode import timecode_after
from tests.data.extras_samples import clip_with
from tests.data.media_samples import even_times, smooth_clip, write_clip

COUNT, RATE = 60, 48_000
CLIP = smooth_clip(COUNT, 32, 48)
UNEVEN = [Fraction(k, 25) + Fraction(k % 3, 100) for k in range(COUNT)]


def read(path, clip_range=None):
    with open_media(path, clip_range=clip_range or ClipRange()) as reader:
        frames = list(reader)
        again = [frame.time for frame in reader.reopened()]
        assert again == [frame.time for frame in frames] or reader.info.kind == "image"
        return torch.stack([frame.pixels for frame in frames]), [frame.time for frame in frames], reader.info


def pictures(folder, count=12):
    folder.mkdir()
    for k in range(count):
        Image.fromarray(CLIP[k].permute(1, 2, 0).numpy()).save(folder / f"frame_{k:05d}.png")
    return folder


def animation(path):
    stills = [Image.fromarray(CLIP[k].permute(1, 2, 0).numpy()) for k in range(12)]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=[40 + 10 * (k % 4) for k in range(12)])
    return path


SOURCES = {
    "even.mp4": lambda path: write_clip(path, CLIP, even_times(COUNT), audio="aac"),
    "uneven.mkv": lambda path: write_clip(path, CLIP, UNEVEN, ticks=1000),
    "decode_times.avi": lambda path: write_clip(path, CLIP, even_times(COUNT), codec="mpeg4", ticks=25),
    "numbered": pictures,
    "moving.gif": animation,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_part_has_the_frames_and_steps_of_the_whole(tmp_path, name):
    path = SOURCES[name](tmp_path / name)
    whole, times, _ = read(path)
    for first, count in ((0, 3), (4, 5), (len(times) - 2, None)):
        end = len(times) if count is None else first + count
        middle = (times[first - 1] + times[first]) / 2 if first else Fraction(0)
        until = times[end] - Fraction(1, 1000) if end < len(times) else None
        for clip_range in (ClipRange(first=first, count=count), ClipRange(start=middle or None, end=until)):
            part, shown, info = read(path, clip_range)
            assert torch.equal(part, whole[first:end])
            assert shown == [time - times[first] for time in times[first:end]]
            assert info.frame_count_hint == pytest.approx(end - first, abs=2) and info.cut == times[first]


def test_a_part_that_begins_with_the_clip_keeps_its_zero(tmp_path):
    source = write_clip(tmp_path / "late.mp4", CLIP, [t + 1 for t in even_times(COUNT)], audio="aac")
    times = read(source)[1]
    assert times[0] == 1 and read(source, ClipRange(end=Fraction(3, 2)))[1] == [t for t in times if t < Fraction(3, 2)]


@pytest.mark.parametrize(
    ("clip_range", "said"),
    [
        (ClipRange(start=Fraction(9)), "has no frame from 9 s on"),
        (ClipRange(first=60), "has no frame from frame 60 on, it has 60 frames"),
        (ClipRange(start=Fraction("1.001"), end=Fraction("1.003")), "no frame begins from 1.001 s up to 1.003 s"),
    ],
)
def test_a_part_without_frames_is_refused(tmp_path, clip_range, said):
    source = write_clip(tmp_path / "clip.mp4", CLIP, even_times(COUNT))
    with pytest.raises(MediaError, match=f"^clip.mp4: {said}"):
        open_media(source, clip_range=clip_range)


def test_a_picture_is_always_whole(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert len(read(tmp_path / "a.png", ClipRange(first=3))[1]) == 1


def clicking(path, codec):
    """25 frames per second for 2.4 s; sound of a level that rises with time, so that it tells the moment."""
    seconds = COUNT / 25
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream(codec, rate=RATE, layout="mono")
        for picture in CLIP:
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        clock = np.arange(round(seconds * RATE)) / RATE
        wave = (clock / seconds * np.sin(2 * np.pi * 1000 * clock)).astype(np.float32)
        resampler = av.AudioResampler(format=sound.codec_context.format.name, layout="mono", rate=RATE)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            for piece in resampler.resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


def levels(path):
    """(start in seconds, end, level at each hundredth of a second) of a file's sound; level is what `clicking` says."""
    start, pieces = None, []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            start = float(frame.pts * frame.time_base) if start is None else start
            samples = frame.to_ndarray().astype(np.float32)
            pieces.append(samples[0] / (32768 if frame.format.name.startswith("s16") else 1))
    wave = np.concatenate(pieces)
    times = start + (np.arange(len(wave) // 480) + 0.5) / 100
    return start, start + len(wave) / RATE, times, np.abs(wave[: len(times) * 480]).reshape(-1, 480).max(1)


def rewritten(source, target, clip_range):
    with open_media(source, clip_range=clip_range) as reader:
        info = reader.info
        path = output_path(source, target, info, clip_range=clip_range)
        with open_writer(path, info, (info.height, info.width)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("copied.mp4", "aac"), ("copied.mov", "pcm_s16le"), ("encoded.avi", "adpcm_ima_wav")]
)
def test_sound_is_cut_with_the_picture_and_stays_at_its_moment(tmp_path, name, codec):
    source = clicking(tmp_path / name, codec)
    result = rewritten(source, tmp_path / "out", ClipRange(start=Fraction("0.42"), end=Fraction("1.62")))
    with open_media(result) as reader:
        assert len(list(reader)) == 30 and reader.info.duration == Fraction("1.2")
    start, end, times, heard = levels(result)
    a_packet = 0.05
    assert 0 <= start < a_packet and 1.2 - a_packet < end < 1.2 + a_packet
    steady = (times > start + 0.1) & (times < end - 0.1)  # away from what codecs do at their ends
    assert np.abs(heard - (times + 0.44) / 2.4)[steady].max() < 0.02  # 0.02 is 48 ms: the first frame is at 0.44 s


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_chapters_and_subtitles_are_cut_with_the_picture(tmp_path, suffix):
    chapters = [(0, 200, "before"), (200, 500, "into"), (500, 900, "out of"), (900, 1000, "behind")]
    source = clip_with(
        tmp_path / "in.mkv", tracks=[({}, 0)], subtitles=[("subrip", {}, 0)], chapters=chapters
    )  # lines from 0 to 0.3 s and from 0.4 to 0.7 s
    with open_media(source, clip_range=ClipRange(first=6, count=9)) as reader:  # 0.24 to 0.6 s
        target = tmp_path / f"out{suffix}"
        with open_writer(target, reader.info, (32, 48)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    with av.open(str(target)) as result:
        base = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in result.chapters()
        ]
        assert base == [("into", 0, Fraction("0.26")), ("out of", Fraction("0.26"), Fraction("0.36"))]
        lines = [
            (float(p.pts * p.time_base), float(p.duration * p.time_base))
            for p in result.demux(result.streams.subtitles[0])
            if p.size > 2
        ]
    assert lines == [pytest.approx((0, 0.06), abs=0.002), pytest.approx((0.16, 0.2), abs=0.002)]


def test_the_timecode_is_that_of_the_first_frame(tmp_path):
    source = clip_with(tmp_path / "in.mkv", tags={"timecode": "10:00:00:20"}, tracks=[({}, 0)])
    result = rewritten(source, tmp_path / "out", ClipRange(first=7))
    with av.open(str(result)) as container:
        assert "10:00:01:02" in [stream.metadata.get("timecode") for stream in container.streams]


def test_timecodes_follow_the_clock():
    assert timecode_after("23:59:59:24", 1, Fraction(25)) == "00:00:00:00"
    for rate, base in ((Fraction(30000, 1001), 30), (Fraction(60000, 1001), 60)):
        hour = round(3600 * rate - Fraction(1, 2))  # drop-frame codes lose 3.6 ms an hour against the clock
        assert timecode_after("00:00:00;00", hour, rate) == "01:00:00;00"
        assert timecode_after("00:00:59;" + str(base - 1), 1, rate) == f"00:01:00;{base // 15:02d}"
        assert timecode_after("00:09:59;" + str(base - 1), 1, rate) == "00:10:00;00"
        codes = [timecode_after("00:00:00;00", n, rate) for n in range(11 * 60 * base)]
        assert len(set(codes)) == len(codes) and codes == sorted(codes)
        assert all(timecode_after(codes[n], 1, rate) == codes[n + 1] for n in range(1, len(codes) - 1, 97))
    assert timecode_after("00:00:59:29", 1, Fraction(30000, 1001)) == "00:01:00:00"
    assert timecode_after("none", 5, Fraction(25)) == "none"


def test_times_and_numbers_are_read_as_people_write_them():
    for text, seconds in (
        ("90", 90),
        ("12.5", 12.5),
        ("1:30", 90),
        ("01:02:03.25", 3723.25),
        (".5", 0.5),
        ("75:00", 4500),
    ):
        assert seconds_of(text) == Fraction(seconds), text
    for text in ("", "-1", "1:75", "1:2:3:4", "1e3", "ten", "1:"):
        with pytest.raises(ValueError, match="no time such as"):
            seconds_of(text)
    assert frames_of("100") == (0, 100) and frames_of("20:40") == (20, 20)
    assert frames_of("20:") == (20, None) and frames_of(":40") == (0, 40)
    for text in ("", ":", "a", "-3", "5:5", "9:2", "1:2:3"):
        with pytest.raises(ValueError, match="frames"):
            frames_of(text)


def test_results_of_parts_have_names_of_their_own(tmp_path):
    source = write_clip(tmp_path / "clip.v1.mp4", CLIP[:2], even_times(2))
    info = read(source)[2]
    names = [
        output_path(source, "out", info, clip_range=clip_range, frames_out=out).name
        for clip_range, out in (
            (ClipRange(), None),
            (ClipRange(start=Fraction(10), end=Fraction("12.5")), None),
            (ClipRange(start=Fraction(10)), None),
            (ClipRange(first=20, count=20), None),
            (ClipRange(first=20), None),
            (ClipRange(start=Fraction(10), count=5), None),
            (ClipRange(count=5), "png"),
        )
    ]
    assert names == [
        "clip.v1.mp4", "clip.v1_10s-12.5s.mp4", "clip.v1_10s-.mp4", "clip.v1_f20-f40.mp4", "clip.v1_f20-.mp4",
        "clip.v1_10s-5f.mp4", "clip.v1_f0-f5",
    ]  # fmt: skip
