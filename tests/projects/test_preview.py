"""`--preview` and `--plan`: what is seen before a file is restored, and that nothing else is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.media import ClipRange, open_media
from projects.video_diffusion_sr.cli_parser import parse_flags
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.throughput import BY_MODEL
from tests.conftest import ROOT
from tests.data.media_samples import even_times, smooth_clip
from tests.data.media_samples import write_clip as write_waves
from tests.projects.test_restore import write_clip
from tests.projects.test_sequences import frames_in, run, tree

CLIP = smooth_clip(50, 32, 48)


@pytest.mark.parametrize("clip_range", [ClipRange(), ClipRange(first=10, count=24)])
@pytest.mark.parametrize("leaps", [True, False])
def test_stills_are_frames_of_the_clip_spread_over_it(tmp_path, clip_range, leaps, monkeypatch):
    if not leaps:  # a file without an index
        monkeypatch.setattr("data.media.video_reader.VideoReader.shown_at", lambda reader, times: [])
    with open_media(write_waves(tmp_path / "a.mp4", CLIP, even_times(50)), clip_range=clip_range) as reader:
        stills, frames = reader.stills(4), {frame.time: frame.pixels for frame in reader}
    times = [still.time for still in stills]
    shares = [int(time * 25 * 4 / len(frames)) for time in times]
    assert shares == [0, 1, 2, 3] and all(still.pixels.equal(frames[still.time]) for still in stills)


def test_fewer_frames_than_asked_for_are_all_shown(tmp_path):
    with open_media(write_waves(tmp_path / "a.mp4", CLIP[:3], even_times(3))) as reader:
        assert [still.time for still in reader.stills(5)] == even_times(3)


def test_a_preview_is_a_sheet_for_each_file_and_no_result(tmp_path, capfd):
    frames_in(tmp_path / "in" / "walk", 5)
    write_clip(tmp_path / "in" / "clip.mp4", 4)
    Image.new("RGB", (32, 24), (200, 30, 40)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no clip")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png.preview.png").write_bytes(b"an earlier preview")  # is replaced
    assert run(tmp_path / "in", tmp_path / "out", "--preview", "2", record=True) == 1
    assert tree(tmp_path / "out") == [f"{name}.preview.png" for name in ("a.png", "clip.mp4", "walk.mp4")]
    said = capfd.readouterr().err
    assert "clip.mp4.preview.png: 2 frames, input and result" in said and "a.png.preview.png: 1 frame, " in said
    one, two = (Image.open(tmp_path / "out" / f"{name}.preview.png").size for name in ("a.png", "clip.mp4"))
    assert one[0] == two[0] > 2 * 32 and two[1] > 1.5 * one[1]
    assert run(tmp_path / "in", tmp_path / "out", "--preview", "0") == 2
    assert run(tmp_path / "in", tmp_path / "out", "--preview", "2", "--compare") == 2


def test_a_plan_makes_nothing_and_counts_the_part(tmp_path, capfd):
    clip = write_clip(tmp_path / "clip.mp4", 20)
    assert run(clip, tmp_path / "out", "--plan", "--frames", "5:12") == 0
    said = capfd.readouterr().out
    assert "7 frames, 32x24 -> 32x24" in said and "predicted peak" in said
    assert "time: unknown, SeedVR2-tiny was not measured" in said and not (tmp_path / "out").exists()
    assert run(clip, tmp_path / "out", "--plan", "--start", "3") == 1


@pytest.mark.parametrize(
    ("reader", "status", "said"),
    [
        ("gone", 0, ""),  # as `head` after its lines
        ("full", 2, "standard output cannot be written: No space left on device\n"),
    ],
)
def test_a_plan_that_nobody_reads_ends_in_a_word(tmp_path, reader, status, said):
    clip = write_clip(tmp_path / "clip.mp4", 4)
    if reader == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    if reader == "gone":
        end, target = os.pipe()
        os.close(end)
    else:
        target = os.open("/dev/full", os.O_WRONLY)
    try:
        script = [sys.executable, str(ROOT / "projects" / "inference_seedvr2_tiny.py")]
        command = [*script, "--video_path", str(clip), "--plan"]
        done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(target)
    assert (done.returncode, done.stderr) == (status, said)


def test_only_a_plan_needs_no_folder_for_results(capsys):
    assert parse_flags(SEEDVR2_TINY, ["--video_path", "x", "--plan"]).output_dir == Path()
    with pytest.raises(SystemExit):
        parse_flags(SEEDVR2_TINY, ["--video_path", "x"])
    assert "required: --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "size", "frames", "measured"),
    [
        ("SeedVR2-3B", (720, 1280), 97, 5.0),
        ("SeedVR2-3B", (1088, 1920), 97, 12.0),
        ("SeedVR2-7B", (720, 1280), 25, 1.33),
    ],
)
def test_predictions_are_near_the_table_of_measurements(model, size, frames, measured):
    predicted = BY_MODEL[model].seconds(size[0] * size[1], frames, frames, 1)
    assert predicted == pytest.approx(measured, rel=0.15)
