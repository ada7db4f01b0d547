"""Reading, computing and writing beside each other: the same files as one after the other, no trace of faults."""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from common.background import ReadAhead
from data.media import MediaReader
from projects.video_diffusion_sr import clip_run, run_order
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.result import Result
from projects.video_diffusion_sr.run_order import Job, files_written_at_once, restore_all, too_many
from tests.projects.test_restore import read, restorer, write_clip  # noqa: F401 (a fixture)


def folder(tmp_path: Path) -> list[Path]:
    """Two clips and three pictures."""
    files = [write_clip(tmp_path / "a.mp4", 9), write_clip(tmp_path / "d.mp4", 2, start=30)]
    for name in "bce":
        files.append(tmp_path / f"{name}.png")
        Image.effect_noise((32, 24), 60 + ord(name)).convert("RGB").save(files[-1])
    return sorted(files)


def run(files: list[Path], out: Path, restorer, **changes) -> list[bool]:  # noqa: F811
    job = Job(out, replace(restorer, **changes), dict.fromkeys(files), "replace")
    return list(restore_all(files, job))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name.startswith(("reader", "writer", "opener", "finisher"))]


@pytest.mark.parametrize("kept", [clip_run.KEPT, 0])
def test_files_are_the_same_with_and_without_overlap(restorer, tmp_path, monkeypatch, kept):  # noqa: F811
    """`kept` 0: every clip is read a second time."""
    monkeypatch.setattr(clip_run, "KEPT", kept)
    files = folder(tmp_path)
    compared = {"result_options": ResultOptions(compare=True)}
    assert run(files, tmp_path / "plain", restorer, overlap=False, **compared) == [True] * 5
    assert run(files, tmp_path / "beside", restorer, overlap=True, **compared) == [True] * 5
    plain = {p.relative_to(tmp_path / "plain"): p for p in (tmp_path / "plain").rglob("*.*")}
    beside = {p.relative_to(tmp_path / "beside"): p for p in (tmp_path / "beside").rglob("*.*")}
    assert plain.keys() == beside.keys() and len(plain) > 5
    for name, path in plain.items():
        assert path.read_bytes() == beside[name].read_bytes(), name


@pytest.mark.parametrize("overlap", [True, False])
def test_a_fault_in_any_thread_costs_its_file_alone(restorer, tmp_path, monkeypatch, overlap):  # noqa: F811
    files = folder(tmp_path)
    frames, write = MediaReader.__iter__, Result.write

    def broken_reading(reader):
        for number, frame in enumerate(frames(reader)):
            if reader.info.path.name == "a.mp4" and number == 6:
                raise OSError(5, "Input/output error")
            yield frame

    def broken_writing(result, *frames):
        if result.output.name == "c.png":
            raise OSError(28, "No space left on device")
        write(result, *frames)

    monkeypatch.setattr(MediaReader, "__iter__", broken_reading)
    monkeypatch.setattr(Result, "write", broken_writing)
    assert run(files, tmp_path / "out", restorer, overlap=overlap) == [False, True, False, True, True]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.png", "d.mp4", "e.png"]


def test_ctrl_c_leaves_nothing_unfinished(restorer, tmp_path, monkeypatch):  # noqa: F811
    """In the middle of the third file: those before it are complete or absent, and no hidden file stays."""
    files, compute, seen = folder(tmp_path), run_order.compute, []

    def interrupted(run, *rest):
        seen.append(run.source.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        compute(run, *rest)

    monkeypatch.setattr(run_order, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(files, tmp_path / "out", restorer)
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert set(left) <= {"a.mp4", "b.png"}
    for name in left:
        assert len(read(tmp_path / "out" / name)) in (1, 9)


@pytest.mark.parametrize("overlap", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slow", ["reader", "writer"])
def test_a_report_says_which_thread_waited(restorer, tmp_path, monkeypatch, caplog, overlap, slow):  # noqa: F811
    """A slow reader is waited for, a slow writer too once its queue is full; the other one is not."""
    frames, write, take = MediaReader.__iter__, Result.write, ReadAhead.__next__
    asked = threading.Event()  # set while the computing thread waits for a frame
    if not overlap:
        asked.set()

    def ask(reader):
        asked.set()
        try:
            return take(reader)
        finally:
            asked.clear()

    def read_slowly(reader):
        for frame in frames(reader):
            assert asked.wait(60)  # else a slow machine computes while the reader sleeps, and nobody waits
            time.sleep(0.1)
            yield frame

    def write_slowly(result, *parts):
        time.sleep(0.3)
        write(result, *parts)

    monkeypatch.setattr(clip_run, "WRITE_BEHIND", 1)
    if slow == "reader":
        monkeypatch.setattr(MediaReader, "__iter__", read_slowly)
        monkeypatch.setattr(ReadAhead, "__next__", ask)
    else:
        monkeypatch.setattr(Result, "write", write_slowly)
    reports, clip = [], write_clip(tmp_path / "a.mp4", 9)
    job = Job(tmp_path / "out", replace(restorer, overlap=overlap), {clip: None}, "replace", reports.append)
    caplog.set_level(logging.DEBUG, run_order.__name__)
    assert list(restore_all([clip], job)) == [True]
    (report,) = reports
    waits = report.waits
    if slow == "reader":
        assert waits.reader > 0.3 and waits.frames > 0.3 and waits.writer + waits.end < waits.reader
    else:
        assert waits.writer + waits.end > 0.25 and waits.reader < waits.writer + waits.end
    assert max(waits.reader + waits.writer + waits.end, waits.frames) <= report.seconds
    assert f"a.mp4: computing waited {waits.reader:.2f} s for the reader" in caplog.text


def test_more_pictures_than_clips_are_written_at_once():
    clip, picture = clip_run.WRITE_BEHIND, 3 * 720 * 1280
    assert [files_written_at_once(cores) for cores in (1, 2, 8, 16, 64)] == [2, 2, 4, 8, 8]
    assert not too_many([clip] * 3, most=8) and too_many([clip] * 4, most=8)
    assert not too_many([picture] * 8, most=8) and too_many([picture] * 9, most=8)
    assert not too_many([0] * 20 + [clip], most=2), "files that are done wait for their line alone"
    assert too_many([clip] * 3 + [picture], most=8)
