"""Files as they come from phones, tapes and the web: each is read to the last frame or refused with its reason.

Counts come from decoding every file with FFmpeg, not from their headers. They need the material beside the checkout.
"""

import itertools
from fractions import Fraction

import pytest
import torch

from data.media import MediaError, find_media, open_media, open_writer, output_path
from tests.data.media_samples import audio_packets

# name: (frames, width, height, frame rate, sound)
CLIPS = {
    "01_phone_rotated_vfr.mp4": (21, 720, 1280, Fraction(118125, 5638), "amr_nb"),
    "03_rot90_small.mov": (3, 320, 568, Fraction(30), None),
    "05_vp8_webm.webm": (150, 960, 540, Fraction(30000, 1001), "vorbis"),
    "06_vp9_no_duration.webm": (74, 1280, 720, Fraction(15000, 1001), "opus"),
    "07_mkv.mkv": (77, 640, 480, Fraction(30), None),
    "10_hevc_10bit_testsrc.mp4": (30, 200, 200, Fraction(30), None),
    "11_av1.mkv": (125, 640, 360, Fraction(25), None),
    "13_h264_yuvj444p_bbb.mp4": (132, 1280, 720, Fraction(25), None),
    "14_newtonscradle.gif": (36, 200, 150, Fraction(1800, 41), None),
    "16_interlaced_mpeg2_tff.ts": (50, 720, 576, Fraction(25), "mp2"),
    "17_vp9_odd_427x241.webm": (60, 427, 241, Fraction(30000, 1001), None),
    "18_mjpeg.avi": (50, 480, 270, Fraction(25), "mp3"),
    "19_hevc_main10_bee.mp4": (30, 640, 360, Fraction(30000, 1001), "aac"),
    "26_animated.webp": (36, 200, 150, Fraction(50), None),
}
STILLS = {
    "20_rgba.png": (500, 500, True),
    "21_rgba_16bit.png": (342, 256, True),
    "22_cmyk.jpg": (510, 532, False),
    "23_exif_orientation6.jpg": (1800, 1200, False),
    "24_exif_orientation8.jpg": (1200, 1800, False),
}
REFUSED = {
    "08_truncated_asf_as.avi": "header is damaged",
    "25_truncated_butterfly.mp4": "only 60 of 226 frames could be decoded",
    "27_no_moov.mp4": r"index of the MP4 \(moov\) is missing",
}
DAMAGED = {"09_corrupted.mp4": 49}


@pytest.fixture(scope="module")
def real_media(shared_data):
    return shared_data / "real_media"


def test_every_file_of_the_folder_is_expected(real_media):
    media, skipped = find_media(real_media)
    assert {path.name for path in media} == {*CLIPS, *STILLS, *REFUSED, *DAMAGED} and not skipped


@pytest.mark.parametrize("name", CLIPS)
def test_clips_give_every_frame_in_order(real_media, name):
    frames, width, height, rate, sound = CLIPS[name]
    with open_media(real_media / name) as reader:
        info, times = reader.info, []
        for frame in reader:
            assert frame.pixels.shape == (3, height, width) and frame.pixels.dtype == torch.uint8
            times.append(frame.time)
    assert len(times) == frames and reader.damage is None
    assert all(a < b for a, b in itertools.pairwise(times))
    assert info.frame_rate == rate and info.audio_codecs == (() if sound is None else (sound,))


@pytest.mark.parametrize("name", STILLS)
def test_stills_are_upright_and_keep_transparency(real_media, name):
    width, height, transparent = STILLS[name]
    with open_media(real_media / name) as reader:
        (frame,) = reader
        assert reader.info.kind == "image" and frame.pixels.shape == (3, height, width)
        assert (reader.info.alpha is not None) == transparent


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_broken_is_refused_with_the_reason(real_media, name):
    with pytest.raises(MediaError, match=REFUSED[name]), open_media(real_media / name) as reader:
        for _ in reader:
            pass


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_in_the_middle_is_told(real_media, name):
    with open_media(real_media / name) as reader:
        assert sum(1 for _ in reader) == DAMAGED[name]
    assert reader.damage.startswith(name)


@pytest.mark.parametrize("name", ["01_phone_rotated_vfr.mp4", "16_interlaced_mpeg2_tff.ts", "18_mjpeg.avi"])
def test_times_and_sound_reach_the_result(real_media, tmp_path, name):
    """At a quarter of the size, which is enough to follow times and sound."""
    with open_media(real_media / name) as reader:
        info, times = reader.info, []
        target = output_path(info.path, tmp_path, info)
        with open_writer(target, info, (info.height // 4, info.width // 4)) as writer:
            for frame in reader:
                small = frame.pixels[:, : info.height // 4 * 4 : 4, : info.width // 4 * 4 : 4]
                writer.write(small[None], [frame.time])
                times.append(frame.time)
    with open_media(target) as result:
        assert [frame.time for frame in result] == times
        assert result.info.sample_aspect_ratio == info.sample_aspect_ratio
        assert abs(result.info.duration - info.duration) <= Fraction(1, 1000) or info.kind != "video"
    assert audio_packets(target) == audio_packets(info.path)
