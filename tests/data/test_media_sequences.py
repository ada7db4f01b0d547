"""Numbered pictures as clips: which folders are, what is read of them, and what is written as them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.claim import Claim, remove_leftovers
from data.media import MediaError, MediaInfo, Probe, find_media, open_media, open_writer, output_path, place_of
from data.media.sequence import numbered
from projects import degrade
from tests.data.media_samples import even_times, smooth_clip, write_clip


def frames_in(folder: Path, numbers: Sequence[int], name: str = "frame_%05d.png", size: tuple[int, int] = (12, 16)):
    """Pictures whose gray is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", size[::-1], (number,) * 3).save(folder / (name % number))
    return folder


def grays(path: Path) -> list[int]:
    with open_media(path) as reader:
        return [int(frame.pixels[0, 0, 0]) for frame in reader]


@pytest.mark.parametrize("name", ["%d.png", "%05d.png", "frame_%03d.bmp", "x4_%04d_LR.png", "v2 shot-%d.tif"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path, name):
    folder = frames_in(tmp_path / "walk", [8, 9, 10, 11], name)
    (folder / ".hidden.png").write_bytes(b"")
    for path in (folder, folder / name):
        with open_media(path) as reader:
            frames = list(reader)
            info = reader.info
        assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [8, 9, 10, 11]
        assert [frame.time for frame in frames] == [Fraction(k, 24) for k in range(4)]
        assert (info.kind, info.width, info.height, info.frame_count_hint) == ("sequence", 16, 12, 4)
        assert info.frame_rate == 24 and not reader.notes
        assert find_media(path, frames_as_clip=path == folder)[0] == [path]


def test_a_pattern_takes_its_own_pictures_alone(tmp_path):
    frames_in(tmp_path, [1, 2, 100000])
    frames_in(tmp_path, [3, 4], "frame_%03d.png")
    frames_in(tmp_path, [5, 6], "other_%05d.png")
    assert numbered(tmp_path / "frame_%05d.png").numbers == (1, 2, 100000)
    assert numbered(tmp_path / "frame_%03d.png").numbers == (3, 4, 100000)
    with pytest.raises(MediaError, match="no picture whose name fits"):
        find_media(tmp_path / "wrong_%05d.png")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    Image.new("RGB", (16, 12), (70, 70, 70)).save(tmp_path / "frame_%05d.png")
    frames_in(tmp_path, [1, 2])
    assert grays(tmp_path / "frame_%05d.png") == [70]


def test_missing_numbers_are_told_and_leave_no_gap(tmp_path):
    folder = frames_in(tmp_path / "walk", [1, 2, 4, 7])
    with open_media(folder) as reader:
        assert [frame.time for frame in reader] == [Fraction(k, 24) for k in range(4)]
    assert reader.notes == ("walk: 3 numbers are missing: 3, 5-6; the clip goes on without them",)


def test_a_frame_of_another_size_or_without_its_end_is_a_sentence(tmp_path):
    folder = frames_in(frames_in(tmp_path / "walk", [1, 2]), [3], size=(12, 18))
    with pytest.raises(MediaError, match=r"^walk: frame_00003.png is 18x12 and the first picture 16x12"):
        grays(folder)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).save(folder / "frame_00003.png")
    whole = (folder / "frame_00003.png").read_bytes()
    (folder / "frame_00003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"^frame_00003.png: "):
        grays(folder)


def test_transparency_is_laid_over_white_and_told(tmp_path):
    (tmp_path / "logo").mkdir()
    for number in (1, 2):
        Image.new("RGBA", (16, 12), (10, 10, 10, 0)).save(tmp_path / "logo" / f"{number}.png")
    with open_media(tmp_path / "logo") as reader:
        assert [int(frame.pixels.min()) for frame in reader] == [255, 255]
    assert any("laid over white" in note for note in reader.notes)


def photographs(root: Path) -> dict[str, str]:
    """Folders of independent pictures, and what is said about each."""
    frames_in(root / "camera", [1, 2, 3], "IMG_%04d.jpg")
    frames_in(root / "gap", [1, 2, 4])
    frames_in(frames_in(root / "sizes", [1, 2]), [3], size=(16, 12))
    frames_in(frames_in(root / "stems", [1, 2], "a_%d.png"), [3], "b_%d.png")
    frames_in(root / "single", [1])
    frames_in(root / "text", [1, 2])
    (root / "text" / "captions.txt").write_text("one\ntwo\n")
    frames_in(root / "dates", [1, 2], "2024-05-0%d_1.png")
    Image.new("RGB", (16, 12)).save(root / "dates" / "2024-06-01_2.png")
    return {
        "camera": "as photographs are", "gap": "1 number is missing: 3", "sizes": "several sizes",
        "stems": "several names", "single": "one picture alone", "text": "captions.txt",
        "dates": "more than one number",
    }  # fmt: skip


def test_no_folder_of_independent_pictures_becomes_a_clip_unasked(tmp_path):
    said = photographs(tmp_path)
    frames_in(tmp_path / "walk", [0, 1, 2])
    frames_in(tmp_path, [1, 2])
    media, skipped = find_media(tmp_path)
    assert media == [tmp_path / "frame_00001.png", tmp_path / "frame_00002.png", tmp_path / "walk"]
    reasons = {path.name: reason for path, reason in skipped}
    assert reasons.keys() == said.keys()
    assert all(text in reasons[name] for name, text in said.items()), reasons


def test_frames_as_clip_takes_what_can_be_numbered(tmp_path, monkeypatch):
    photographs(tmp_path)
    media, _ = find_media(tmp_path, frames_as_clip=True)
    assert [path.name for path in media] == ["camera", "gap", "sizes", "text"]
    with pytest.raises(MediaError, match="several names"):
        find_media(tmp_path / "stems", frames_as_clip=True)
    frames_in(tmp_path, [1, 2])
    assert find_media(tmp_path, frames_as_clip=True)[0][0] == tmp_path
    monkeypatch.chdir(tmp_path)
    assert find_media(".", frames_as_clip=True)[0][0].name == tmp_path.name  # a line about it needs a name


def test_recursive_takes_pictures_one_by_one_and_keeps_folders(tmp_path):
    frames_in(tmp_path / "b" / "deep", [1, 2])
    write_clip(tmp_path / "b" / "film.mp4", smooth_clip(2, 12, 16), even_times(2))
    frames_in(tmp_path / "out" / "b", [1])
    frames_in(tmp_path / ".trash", [1])
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    media, skipped = find_media(tmp_path, recursive=True, leave_out=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in media] == [
        "b/deep/frame_00001.png", "b/deep/frame_00002.png", "b/film.mp4",
    ]  # fmt: skip
    assert {path.name for path, _ in skipped} == {".trash", "loop", "out"}
    clips, _ = find_media(tmp_path, recursive=True, frames_as_clip=True, leave_out=tmp_path / "out")
    assert clips == [tmp_path / "b" / "deep", tmp_path / "b" / "film.mp4"]
    places = [place_of(path, tmp_path, Path("res")) for path in (media[0], clips[0], tmp_path)]
    assert places == [Path("res/b/deep"), Path("res/b"), Path("res")]


def test_results_of_folders_and_files_have_names_of_their_own(tmp_path):
    frames_in(tmp_path / "walk.v2", [1, 2])
    for name in ("walk.v2.mp4", "walk.v2.mov", "one.mkv"):
        write_clip(tmp_path / name, smooth_clip(2, 12, 16), even_times(2))
    media, _ = find_media(tmp_path)
    for frames_out in (None, "png"):
        results = [output_path(path, "out", Probe("video", 12, 16, 2), frames_out=frames_out).name for path in media]
        assert len(set(results)) == len(media) == 4, results
    assert sorted(results) == ["one", "walk.v2_frames", "walk.v2_mov", "walk.v2_mp4"]
    (tmp_path / "one").mkdir()
    assert output_path(tmp_path / "one.mkv", "out", Probe("video", 12, 16, 2), frames_out="png").name == "one_mkv"
    assert (
        output_path(tmp_path / "walk.v2" / "frame_%05d.png", "out", Probe("sequence", 12, 16, 2)).stem
        == "walk.v2_frames"
    )


def write_frames(folder: Path, count: int, info: MediaInfo) -> None:
    with open_writer(folder, info, (13, 17), frames_out="png") as writer:
        for k in range(count):
            assert not folder.exists() or len(list(folder.iterdir())) != k
            writer.write(torch.full((1, 3, 13, 17), 10 + k, dtype=torch.uint8), [Fraction(k, 25)])


def test_frames_are_written_exactly_and_appear_together(tmp_path):
    info = MediaInfo(tmp_path / "in.mp4", "video", 17, 13, frame_rate=Fraction(25))
    folder = tmp_path / "out" / "clip.v2"
    write_frames(folder, 3, info)
    assert sorted(path.name for path in folder.iterdir()) == [f"frame_0000{k}.png" for k in (1, 2, 3)]
    assert grays(folder / "frame_%05d.png") == grays(folder) == [10, 11, 12]
    write_frames(folder, 2, info)  # the shorter result replaces all of the longer one
    assert grays(folder) == [10, 11] and [path.name for path in folder.parent.iterdir()] == ["clip.v2"]


def test_an_error_leaves_the_old_frames_and_nothing_else(tmp_path):
    info = MediaInfo(tmp_path / "in.mp4", "video", 17, 13, frame_rate=Fraction(25))
    given = tmp_path / "clip", info, (13, 17)
    write_frames(tmp_path / "clip", 2, info)
    with pytest.raises(RuntimeError), open_writer(*given, frames_out="png") as writer:
        writer.write(torch.zeros(1, 3, 13, 17, dtype=torch.uint8), [Fraction(0)])
        with pytest.raises(MediaError, match="is being made by"):
            open_writer(*given, frames_out="png")
        raise RuntimeError("stopped")
    assert grays(tmp_path / "clip") == [10, 11] and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(MediaError, match=r"holds note\.txt"), open_writer(*given, frames_out="png") as writer:
        writer.write(torch.zeros(1, 3, 13, 17, dtype=torch.uint8), [Fraction(0)])
        (tmp_path / "clip" / "note.txt").write_text("put here while the run went on")
    assert len(list((tmp_path / "clip").iterdir())) == 3 and len(list(tmp_path.iterdir())) == 1


def test_frames_never_replace_anything_but_frames(tmp_path):
    folder = frames_in(tmp_path / "clip", [1, 2])
    with pytest.raises(MediaError, match="is the input itself"):
        open_writer(folder, MediaInfo(folder / "frame_%05d.png", "sequence", 16, 12), (12, 16), frames_out="png")
    (folder / "thesis.doc").write_text("ten years of work")
    (tmp_path / "file").write_text("a file")
    for path, said in ((folder, "holds thesis.doc"), (tmp_path / "file", "is a file")):
        with pytest.raises(MediaError, match=said):
            open_writer(path, MediaInfo(tmp_path / "in.mp4", "video", 16, 12), (12, 16), frames_out="png")
    assert (folder / "thesis.doc").exists()


def test_unfinished_folders_of_dead_runs_are_removed(tmp_path):
    claim = Claim(tmp_path / "clip")
    part = frames_in(claim.new_folder(), [1])
    claim.release()
    assert remove_leftovers(tmp_path) == 1 and not part.exists()


def test_degrade_writes_what_is_read_here(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), np.uint8)
    degrade.write_clip(clip, tmp_path / "low", "walk", Fraction(25), "png")
    (found,), skipped = find_media(tmp_path / "low")
    with open_media(found) as reader:
        frames = torch.stack([frame.pixels for frame in reader])
    assert not skipped and torch.equal(frames, torch.from_numpy(clip).permute(0, 3, 1, 2))
