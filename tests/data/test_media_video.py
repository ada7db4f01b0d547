"""Laws of clips: what goes in comes out, with its frames, times, colours and sound; whole or not at all."""

from dataclasses import replace
from fractions import Fraction

import av
import pytest
import torch

from data.media import MediaError, OutputOptions, open_media, open_writer, output_path
from data.yuv.frames import planes_of
from data.yuv.to_rgb import to_rgb
from tests.data.media_samples import audio_packets, even_times, smooth_clip, write_clip

NTSC = Fraction(30000, 1001)
EXACT_CODECS = ("libx264", "libx264rgb", "ffv1")


def read(path, **options):
    with open_media(path, **options) as reader:
        frames = list(reader)
    return reader, torch.stack([frame.pixels for frame in frames]), [frame.time for frame in frames]


def copy(source, folder, **options):
    """A file through the reader and the writer."""
    reader, pixels, times = read(source)
    target = output_path(source, folder, reader.info)
    with open_writer(target, reader.info, tuple(pixels.shape[-2:]), **options) as writer:
        writer.write(pixels, times)
    return target


def stream_of(path):
    with av.open(str(path)) as container:
        return container.streams.video[0]


def mean_error(a, b):
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("rate", [Fraction(25), NTSC, Fraction(24000, 1001), Fraction(10)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_constant_rate_comes_out_exactly(tmp_path, rate, suffix):
    clip, times = smooth_clip(13, 48, 64), even_times(13, rate)
    source = write_clip(tmp_path / f"in{suffix}", clip, times, rate=rate, ticks=rate.numerator)
    target = copy(source, tmp_path / "out")
    _, pixels, out_times = read(target)
    assert out_times == times and mean_error(pixels, clip) < 2
    stream = stream_of(target)
    assert stream.average_rate == rate and stream.duration * stream.time_base == 13 / rate


def test_output_is_tagged_and_right_by_the_formula(tmp_path):
    clip = smooth_clip(2, 32, 48)
    source = write_clip(tmp_path / "in.mp4", clip, even_times(2))
    target = tmp_path / "out.mp4"
    with open_writer(target, open_media(source).info, (32, 48), options=OutputOptions(crf=0)) as writer:
        writer.write(clip, even_times(2))
    context = stream_of(target).codec_context
    tags = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
    assert tags == (1, 1, 1, 1) and context.pix_fmt == "yuv420p" and context.name == "h264"
    with av.open(str(target)) as container:
        luma = torch.from_numpy(next(container.decode(video=0)).to_ndarray()[:32].copy()).float()
    red, green, blue = clip[0].float() / 255
    assert mean_error(luma, 16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)) < 0.6
    head = target.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays while it loads


@pytest.mark.parametrize("matrix", [1, 5, 9], ids=["bt709", "bt601", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
def test_colours_survive_any_matrix_and_range(tmp_path, matrix, full_range):
    clip = smooth_clip(2, 48, 64)
    source = write_clip(tmp_path / "in.mp4", clip, even_times(2), matrix=matrix, full_range=full_range)
    assert mean_error(read(source)[1], clip) < 1.5
    assert mean_error(read(copy(source, tmp_path / "out", options=OutputOptions(crf=4)))[1], clip) < 2


@pytest.mark.parametrize(
    "codec,pix_fmt",
    [
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv422p"),
        ("libx264", "yuv444p"),
        ("libx264rgb", "rgb24"),
        ("mjpeg", "yuvj420p"),
        ("ffv1", "bgr0"),
        ("libvpx-vp9", "yuv420p"),
        ("mpeg2video", "yuv420p"),
    ],
)
def test_pixel_formats_and_codecs(tmp_path, codec, pix_fmt):
    clip = smooth_clip(3, 48, 64)
    source = write_clip(tmp_path / "in.mkv", clip, even_times(3), codec=codec, pix_fmt=pix_fmt, ticks=25)
    _, pixels, times = read(source)
    assert times == even_times(3) and mean_error(pixels, clip) < (2 if codec in EXACT_CODECS else 6)


@pytest.mark.parametrize("height,matrix", [(480, 5), (720, 1)])
def test_a_clip_that_names_no_matrix_gets_the_usual_one(tmp_path, height, matrix):
    clip = smooth_clip(1, height, 64)
    silent = write_clip(tmp_path / "silent.mkv", clip, even_times(1), codec="mpeg4", ticks=25)
    with av.open(str(silent)) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace == 2
    frame.colorspace = matrix
    assert torch.equal(read(silent)[1], to_rgb(*planes_of(frame)))


def test_variable_timing_is_kept_to_the_tick(tmp_path):
    times = [Fraction(t, 90_000) for t in (0, 2844, 5713, 8661, 20_000, 22_958, 31_111, 34_000)]
    source = write_clip(tmp_path / "in.mp4", smooth_clip(8, 32, 48), times, ticks=90_000, rate=Fraction(30))
    info, _, in_times = read(source)[0].info, *read(source)[1:]
    _, _, out_times = read(copy(source, tmp_path / "out"))
    assert info.variable_frame_rate and in_times == out_times == times


def test_matroska_milliseconds_become_an_even_rate_and_gaps_stay(tmp_path):
    times = [k / NTSC for k in (0, 1, 2, 5, 6, 7)]
    source = write_clip(tmp_path / "in.mkv", smooth_clip(6, 32, 48), times, rate=NTSC, ticks=30_000)
    assert read(source)[2] == times


def test_sound_is_copied_bit_by_bit_and_in_step(tmp_path):
    late = [Fraction(1, 5) + t for t in even_times(8)]  # the picture starts after the sound
    source = write_clip(tmp_path / "in.mp4", smooth_clip(8, 32, 48), late, audio="aac")
    target = copy(source, tmp_path / "out")
    assert audio_packets(target) == audio_packets(source)
    assert read(source)[2] == read(target)[2] == late
    with av.open(str(source)) as a, av.open(str(target)) as b:
        assert a.streams.audio[0].start_time == b.streams.audio[0].start_time
        assert a.streams.audio[0].duration == b.streams.audio[0].duration


def test_sound_that_mp4_cannot_carry_moves_to_a_container_that_can(tmp_path):
    source = write_clip(tmp_path / "in.mkv", smooth_clip(8, 32, 48), even_times(8), audio="pcm_s16le")
    target = copy(source, tmp_path / "out")
    assert target.name == "in.mov" and b"".join(audio_packets(target)) == b"".join(audio_packets(source))
    assert output_path(source, tmp_path, replace(open_media(source).info, audio_codecs=("vorbis",))).suffix == ".mkv"


def test_sound_is_reencoded_when_mp4_is_asked_for_by_name(tmp_path, caplog):
    source = write_clip(tmp_path / "in.mkv", smooth_clip(25, 32, 48), even_times(25), audio="pcm_s16le")
    reader, pixels, times = read(source)
    with caplog.at_level("INFO"), open_writer(tmp_path / "out.mp4", reader.info, (32, 48)) as writer:
        writer.write(pixels, times)
    assert "re-encoded as AAC" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == "aac" and abs(sound.duration * sound.time_base - 1) < 0.05


def test_retiming_plays_the_same_frames_and_drops_sound_only_when_the_length_changes(tmp_path, caplog):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(10, 32, 48), even_times(10), audio="aac")
    target = copy(source, tmp_path / "a", options=OutputOptions(frame_rate=Fraction(50)))
    reader, _, times = read(target)
    assert times == even_times(10, Fraction(50)) and not reader.info.has_audio and "sound is left out" in caplog.text
    same = copy(source, tmp_path / "b", options=OutputOptions(frame_rate=Fraction(25)))
    assert audio_packets(same) == audio_packets(source)


@pytest.mark.parametrize("mirrored", [False, True], ids=["", "mirrored"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotated_clips_come_out_upright(tmp_path, degrees, mirrored):
    clip = smooth_clip(2, 32, 64)
    source = write_clip(
        tmp_path / "in.mp4", clip, even_times(2), rotation=degrees, mirrored=mirrored, aspect=Fraction(16, 15)
    )
    reader, pixels, _ = read(source)
    upright = torch.rot90(clip, degrees // 90, dims=(-2, -1))  # counter-clockwise, as the display matrix counts
    upright = upright.flip(-1) if mirrored else upright
    assert (reader.info.height, reader.info.width) == tuple(upright.shape[-2:])
    assert mean_error(pixels, upright) < 2
    assert reader.info.sample_aspect_ratio == (Fraction(15, 16) if degrees % 180 else Fraction(16, 15))
    target = copy(source, tmp_path / "out", options=OutputOptions(crf=4))
    again, pixels, _ = read(target)
    assert mean_error(pixels, upright) < 2.5 and again.info.sample_aspect_ratio == reader.info.sample_aspect_ratio


def test_interlaced_clips_keep_their_count_and_lose_their_combs(tmp_path):
    moving = torch.zeros(20, 3, 64, 96, dtype=torch.uint8)
    for field in range(20):
        moving[field, :, :, 4 * field : 4 * field + 16] = 255
    woven = moving[0::2].clone()
    woven[:, :, 1::2] = moving[1::2][:, :, 1::2]  # top field first
    source = write_clip(tmp_path / "in.mp4", woven, even_times(10), interlaced=True)

    def comb(pixels):
        inner = pixels[2:8].float()
        return (inner[:, :, 1:-1] - (inner[:, :, :-2] + inner[:, :, 2:]) / 2).abs().mean().item()

    kept, treated = read(source, deinterlace="never"), read(source)
    assert len(kept[1]) == len(treated[1]) == 10 and kept[2] == treated[2] == even_times(10)
    assert comb(treated[1]) < 0.5 * comb(kept[1])
    progressive = write_clip(tmp_path / "p.mp4", smooth_clip(5, 32, 48), even_times(5))
    assert torch.equal(read(progressive)[1], read(progressive, deinterlace="never")[1])


def test_odd_sizes_grow_by_a_repeated_line(tmp_path, caplog):
    clip = smooth_clip(3, 31, 45)
    source = write_clip(tmp_path / "in.webm", clip, even_times(3), codec="libvpx-vp9", ticks=1000)
    with caplog.at_level("INFO"):
        target = copy(source, tmp_path / "out", options=OutputOptions(crf=4))
    _, pixels, _ = read(target)
    assert pixels.shape[-2:] == (32, 46) and "made even" in caplog.text
    assert mean_error(pixels[..., :31, :45], read(source)[1]) < 2
    assert mean_error(pixels[..., 31, :45], pixels[..., 30, :45]) < 3


def test_reading_is_lazy_and_repeatable(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(30, 32, 48), even_times(30))
    with open_media(source) as reader:
        first = next(iter(reader))
        again = [frame.pixels for frame in reader]
    assert torch.equal(first.pixels, again[0]) and len(again) == 30


def test_an_error_leaves_nothing_and_keeps_the_old_file(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(5, 32, 48), even_times(5), audio="aac")
    reader, pixels, times = read(source)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "in.mp4").write_bytes(b"the night's work")
    with pytest.raises(RuntimeError, match="power"), open_writer(folder / "in.mp4", reader.info, (32, 48)) as writer:
        writer.write(pixels, times)
        raise RuntimeError("power")
    assert [p.name for p in folder.iterdir()] == ["in.mp4"]
    assert (folder / "in.mp4").read_bytes() == b"the night's work"
    with pytest.raises(MediaError, match="no frame"), open_writer(folder / "b.mp4", reader.info, (32, 48)):
        pass
    assert [p.name for p in folder.iterdir()] == ["in.mp4"]
    copy(source, folder)
    assert [p.name for p in folder.iterdir()] == ["in.mp4"] and len(read(folder / "in.mp4")[1]) == 5


def test_the_writer_refuses_with_a_sentence(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(5, 32, 48), even_times(5))
    reader, pixels, times = read(source)
    with pytest.raises(MediaError, match="is the input itself"):
        open_writer(source, reader.info, (32, 48))
    with pytest.raises(ValueError, match="--crf 70 must lie between 0 and 51"):
        open_writer(tmp_path / "a.mp4", reader.info, (32, 48), options=OutputOptions(crf=70))
    with pytest.raises(MediaError, match=r"cannot write \.wmv"):
        open_writer(tmp_path / "a.wmv", reader.info, (32, 48))
    with (
        pytest.raises(ValueError, match="not behind the last one"),
        open_writer(tmp_path / "a.mp4", reader.info, (32, 48)) as writer,
    ):
        writer.write(pixels[:2], [times[1], times[0]])
    with (
        pytest.raises(ValueError, match="round and clamp"),
        open_writer(tmp_path / "a.mp4", reader.info, (32, 48)) as w,
    ):
        w.write(pixels.float(), times)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def damaged(source, target, packets):
    """A copy whose packets of these numbers hold noise."""
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    for number in packets:
        position, size = places[number]
        data[position : position + size] = b"\xff" * size
    target.write_bytes(data)
    return target


def test_damage_in_the_middle_is_told_and_the_rest_goes_on(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(20, 32, 48), even_times(20))
    reader, _pixels, times = read(damaged(source, tmp_path / "bad.mp4", [9]))
    assert reader.damage == "bad.mp4: damaged data was skipped in 1 place; 19 frames were read"
    assert set(even_times(20)) - set(times) == {Fraction(9, 25)} and times[-1] == Fraction(19, 25)
    assert read(source)[0].damage is None


def test_a_lost_tail_is_an_error_that_counts(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(20, 32, 48), even_times(20))
    for broken in (damaged(source, tmp_path / "bad.mp4", range(12, 20)), copy(source, tmp_path / "cut")):
        if broken.parent.name == "cut":
            with av.open(str(broken)) as container:
                end = [p.pos + p.size for p in container.demux(video=0) if p.size][11]
            broken.write_bytes(broken.read_bytes()[:end])  # cut exactly between two packets: no decoder complains
        seen = 0
        with pytest.raises(MediaError, match=r"only \d+ of 20 frames"), open_media(broken) as reader:
            for _ in reader:
                seen += 1
        assert 8 <= seen <= 12


def test_what_is_no_clip_is_refused_with_the_reason(tmp_path):
    source = write_clip(tmp_path / "in.mp4", smooth_clip(3, 32, 48), even_times(3), audio="aac")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("just words\n" * 50)
    whole = source.read_bytes()
    (tmp_path / "no_moov.mp4").write_bytes(whole[: whole.index(b"moov") - 4])  # a recording that never ended
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as song, av.open(str(source)) as original:
        stream = song.add_stream_from_template(original.streams.audio[0])
        for packet in original.demux(audio=0):
            if packet.size:
                packet.stream = stream
                song.mux(packet)
    reasons = {
        "empty.mp4": "file is empty",
        "notes.txt": "not a video",
        "no_moov.mp4": r"index of the MP4 \(moov\) is missing",
        "song.m4a": "no video stream",
        "nowhere.mp4": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=reason):
            open_media(tmp_path / name)
