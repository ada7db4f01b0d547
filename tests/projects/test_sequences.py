"""Numbered pictures through the program: clips of them in, folders of them out, folders below folders."""

from pathlib import Path

import pytest
from PIL import Image

from data.media import open_media
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.cli_parser import FRAMES_OUT
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.projects.test_restore import SMALL, write_clip


def frames_in(folder: Path, count: int, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (32, 24), (20 * k, 90, 60)).save(folder / f"{k:05d}.{suffix}")
    return folder


def run(source: Path, output: Path, *flags: str, record: bool = False) -> int:
    small = ["--device", "cpu", "--res_h", "24", "--res_w", "32", "--random_weights", "--set", *SMALL]
    flags = flags if record else (*flags, "--no_record")
    return main(SEEDVR2_TINY, ["--video_path", str(source), "--output_dir", str(output), *flags, *small])


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def frames_of(path: Path) -> tuple[int, float]:
    with open_media(path) as reader:
        return len(list(reader)), float(reader.info.frame_rate)


def test_the_parser_knows_the_formats():
    from data.media import sequence_writer

    assert FRAMES_OUT == sequence_writer.FRAMES_OUT


def test_folders_in_a_folder_and_a_pattern_are_clips_with_a_stated_rate(tmp_path, capfd):
    frames_in(tmp_path / "in" / "walk", 3)
    frames_in(tmp_path / "in" / "photos", 2, "jpg")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    said = capfd.readouterr().err
    assert "walk: 3 numbered pictures, one clip of 24 frames per second, which --out_fps changes" in said
    assert "photos: skipped" in said and "--recursive searches folders" in said
    assert tree(tmp_path / "out") == ["walk.mp4"] and frames_of(tmp_path / "out" / "walk.mp4") == (3, 24.0)
    (tmp_path / "in" / "walk" / "00001.png").unlink()
    pattern = tmp_path / "in" / "walk" / "%05d.png"
    assert run(pattern, tmp_path / "two", "--out_fps", "10") == 0
    said = capfd.readouterr().err
    assert "one clip of 10 frames per second" in said and "1 number is missing: 1" in said
    assert frames_of(tmp_path / "two" / "walk.mp4") == (2, 10.0)


def test_pictures_of_a_folder_stay_pictures_unless_asked(tmp_path, capfd):
    walk = frames_in(tmp_path / "walk", 2, "jpg")
    assert run(walk, tmp_path / "out") == 0 and tree(tmp_path / "out") == ["00000.jpg", "00001.jpg"]
    assert "2 numbered pictures, restored one by one; --frames_as_clip" in capfd.readouterr().err
    assert run(walk, tmp_path / "clip", "--frames_as_clip") == 0 and tree(tmp_path / "clip") == ["walk.mp4"]


def test_recursive_keeps_the_structure(tmp_path):
    frames_in(tmp_path / "in" / "a", 1)
    frames_in(tmp_path / "in" / "b" / "c", 1)
    write_clip(tmp_path / "in" / "b" / "film.mp4", 2)
    out = tmp_path / "in" / "restored"  # where a second run must not look for inputs
    assert run(tmp_path / "in", out, "--recursive") == 0
    assert tree(out) == ["a/00000.png", "b/c/00000.png", "b/film.mp4"]
    assert run(tmp_path / "in", out, "--recursive", "--skip_existing") == 0 and len(tree(out)) == 3


def test_frames_out_writes_folders_of_pictures(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", 3)
    Image.new("RGB", (32, 24)).save(tmp_path / "in" / "b.png")
    out, flags = tmp_path / "out", ("--frames_out", "png", "--compare")
    assert run(tmp_path / "in", out, *flags) == 0
    assert "a: pictures of a clip of 25 frames per second" in capfd.readouterr().err
    frames = [f"a/frame_0000{k}.png" for k in (1, 2, 3)]
    assert [name for name in tree(out) if not name.startswith("compare")] == [*frames, "b.png"]
    assert (out / "compare" / "a.mp4").is_file()
    with Image.open(out / frames[0]) as frame:
        assert frame.size == (32, 24)
    first = (out / frames[0]).stat().st_mtime_ns
    assert run(tmp_path / "in", out, *flags) == 1 and "--overwrite" in capfd.readouterr().err
    assert run(tmp_path / "in", out, *flags, "--skip_existing") == 0
    assert (out / frames[0]).stat().st_mtime_ns == first
    assert run(tmp_path / "in", out, *flags, "--overwrite") == 0
    assert (out / frames[0]).stat().st_mtime_ns > first


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_frames_never_replace_their_input(tmp_path, capfd, flags):
    walk = frames_in(tmp_path / "walk", 2)
    before = tree(walk)
    assert run(walk / "%05d.png", tmp_path, "--frames_out", "png", *flags) in (1, 2)
    assert "would replace the input" in capfd.readouterr().err and tree(walk) == before
