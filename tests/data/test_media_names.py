"""Laws of files: what is skipped is named with a reason, and no result overwrites another."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from PIL import Image

from data.media import MediaError, MediaInfo, find_media, is_probably_media, open_media, open_writer, output_path
from data.media.preview import SideBySide, contact_sheet, side_by_side
from tests.data.media_samples import audio_packets, even_times, smooth_clip, write_clip


def info_of(path, kind="video", audio=()):
    return MediaInfo(path, kind, 64, 48, frame_rate=Fraction(25), has_audio=bool(audio), audio_codecs=audio)


def test_a_folder_is_sorted_into_media_and_the_rest(tmp_path):
    for name in ("b.MP4", "a.jpg", "notes.txt", ".hidden.mp4", ".b.part.mp4", "Thumbs.db", "data.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "no_suffix").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "README").write_bytes(b"words")
    media, skipped = find_media(tmp_path)
    assert [p.name for p in media] == ["a.jpg", "b.MP4", "no_suffix"]
    assert len(media) + len(skipped) == len(list(tmp_path.iterdir()))
    reasons = {p.name: reason for p, reason in skipped}
    assert "hidden" in reasons[".hidden.mp4"] and "folder" in reasons["sub"] and "not a video" in reasons["notes.txt"]
    assert find_media(tmp_path / "README") == ([tmp_path / "README"], [])
    assert is_probably_media("clip.mkv") and not is_probably_media("clip.srt")


def test_nothing_to_do_is_an_error_with_a_reason(tmp_path):
    with pytest.raises(MediaError, match="it is empty"):
        find_media(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MediaError, match=r"a\.txt: a text file, not a video"):
        find_media(tmp_path)
    with pytest.raises(MediaError, match="no such file or folder"):
        find_media(tmp_path / "nowhere")


def test_no_two_inputs_of_a_folder_meet(tmp_path):
    stems, suffixes = ("a", "a_mov", "b.c"), (".mp4", ".mov", ".MOV", ".mkv", ".gif", ".png", ".jpg", ".heic", ".avif")
    paths = [tmp_path / (stem + suffix) for stem, suffix in product(stems, suffixes)]
    for path in paths:
        path.touch()
    results = []
    for path in paths:
        kind = "image" if path.suffix in (".png", ".jpg", ".heic", ".avif") else "video"
        results.append(output_path(path, tmp_path / "out", info_of(path, kind)))
    assert len(set(results)) == len(paths)
    assert output_path(tmp_path / "a.mp4", "out", info_of(tmp_path / "a.mp4")).name == "a.mp4"
    assert output_path(tmp_path / "a.mkv", "out", info_of(tmp_path / "a.mkv")).name == "a_mkv.mp4"


def test_a_lone_input_keeps_its_stem(tmp_path):
    assert output_path(tmp_path / "clip.webm", "out", info_of(tmp_path / "clip.webm")).name == "clip.mp4"
    assert output_path(tmp_path / "x.JPG", "out", info_of(tmp_path / "x.JPG", "image")).name == "x.JPG"
    assert output_path(tmp_path / "x.gif", "out", info_of(tmp_path / "x.gif", "animation")).name == "x.mp4"


@pytest.mark.parametrize(
    "codecs,suffix",
    [(("aac",), ".mp4"), (("amr_nb",), ".mov"), (("vorbis",), ".mkv"), (("aac", "pcm_s16le"), ".mov"), ((), ".mp4")],
)
def test_the_container_is_the_first_that_takes_the_sound(tmp_path, codecs, suffix):
    assert output_path(tmp_path / "a.avi", "out", info_of(tmp_path / "a.avi", audio=codecs)).suffix == suffix


def test_side_by_side_shows_both_at_one_size(tmp_path):
    before, after = smooth_clip(4, 24, 32), smooth_clip(4, 48, 64)
    pair = side_by_side(before, after)
    assert pair.shape == (4, 3, 48, 128) and pair.dtype == torch.uint8
    assert torch.equal(pair[..., 66:], after[..., 2:]) and bool((pair[..., 63:65] == 255).all())
    assert (pair[..., :62].float() - after[..., :62].float()).abs().mean() < 4
    with pytest.raises(ValueError, match="same moments"):
        side_by_side(before[:3], after)
    source = write_clip(tmp_path / "in.mp4", before, even_times(4), audio="aac")
    with SideBySide(tmp_path / "compare.mp4", open_media(source).info, (48, 64)) as writer:
        writer.write(before, after, even_times(4))
    with open_media(tmp_path / "compare.mp4") as reader:
        assert [f.time for f in reader] == even_times(4) and (reader.info.width, reader.info.height) == (128, 48)
    assert audio_packets(tmp_path / "compare.mp4") == audio_packets(source)


def test_side_by_side_of_a_transparent_picture(tmp_path):
    alpha = torch.zeros(1, 24, 32, dtype=torch.uint8)
    info = MediaInfo(tmp_path / "in.png", "image", 32, 24, alpha=alpha)
    with SideBySide(tmp_path / "compare.png", info, (48, 64)) as writer:
        writer.write(smooth_clip(1, 24, 32), smooth_clip(1, 48, 64), [Fraction(0)])
    assert Image.open(tmp_path / "compare.png").mode == "RGB"


def test_the_contact_sheet_has_a_row_for_each_moment(tmp_path):
    before, after = smooth_clip(3, 24, 32), smooth_clip(3, 96, 128)
    rows = [(f"{k} s", before[k], after[k]) for k in range(3)]
    sheet = contact_sheet(rows, tmp_path / "sheets" / "sheet.png")
    assert Image.open(tmp_path / "sheets" / "sheet.png").format == "PNG"
    assert [p.name for p in (tmp_path / "sheets").iterdir()] == ["sheet.png"]
    assert sheet.width == 2 * 128 + 16 and sheet.height == 3 * (96 + 20 + 8) + 8
    small = contact_sheet(rows, cell_width=64)
    assert small.width == 2 * 64 + 16
    with pytest.raises(ValueError, match="at least one frame"):
        contact_sheet([])


def test_a_picture_takes_one_frame(tmp_path):
    info = MediaInfo(tmp_path / "in.png", "image", 32, 24)
    with pytest.raises(ValueError, match="holds one frame"), open_writer(tmp_path / "a.png", info, (24, 32)) as writer:
        writer.write(smooth_clip(2, 24, 32), even_times(2))
    assert list(tmp_path.iterdir()) == []
