"""A clip that was interrupted goes on where it was, and its bytes do not tell."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from data.media import open_media, segmented
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.file_errors import OutputError
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restore import Restorer, restore_clip
from projects.video_diffusion_sr.result import Result
from projects.video_diffusion_sr.segments import Grid, Place, run_in
from tests.projects.test_restore import SMALL, write_clip

FRAMES = 45
WINDOW, FACTOR = 6, 2  # latents of a window, frames of a latent: a window ends every 8 frames


@pytest.fixture(scope="module")
def restorer() -> Iterator[Restorer]:
    """A window ends every 8 frames; the networks look back further than that."""
    request = Request(res=(24, 32), random_weights=True, overrides=tuple(SMALL))
    with process_group("cpu") as process:
        yield replace(build(SEEDVR2_TINY, request, Parallel(process)), window=WINDOW, identity={"the seed": "666"})


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segmented, "LEAST_KEPT", 8)


def stopped_at(monkeypatch, frame: int, error: BaseException) -> None:
    """The next writer raises an error before it writes this frame."""
    write = Result.write

    def stopping(result, stored, times, *rest):
        if result.frames <= frame < result.frames + len(times):
            raise error
        write(result, stored, times, *rest)

    monkeypatch.setattr(Result, "write", stopping)


def hidden(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def bytes_of(result: Path) -> list[bytes]:
    """Of a clip, or of a folder of frames."""
    return [file.read_bytes() for file in (sorted(result.iterdir()) if result.is_dir() else [result])]


@pytest.mark.parametrize("frames_out", [None, "png"])
def test_from_every_moment_on_the_same_bytes(restorer, tmp_path, monkeypatch, frames_out):
    """What lies on the disk at a moment is what SIGKILL leaves: a copy of it is gone on from."""
    restorer = replace(restorer, result_options=ResultOptions(frames_out=frames_out))
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    write, moments = Result.write, []

    def copying(result, *frames):
        write(result, *frames)
        if result.frames % 14 == 1:
            moments.append(tmp_path / f"moment{result.frames}")
            shutil.copytree(result.output.parent, moments[-1])

    monkeypatch.setattr(Result, "write", copying)
    whole = restore_clip(clip, tmp_path / "out", restorer).output
    assert hidden(whole.parent) == []
    monkeypatch.setattr(Result, "write", write)
    earlier = []
    for moment in moments:
        report = restore_clip(clip, moment, restorer)
        earlier.append(report.kept)
        assert report.frames == FRAMES and bytes_of(report.output) == bytes_of(whole), moment.name
        assert hidden(moment) == []
    assert earlier == sorted(earlier) and earlier[0] == 0 and earlier[-1] >= FRAMES - 20
    rate = 24 if frames_out else 25
    with open_media(whole) as reader:
        assert [frame.time for frame in reader] == [Fraction(number, rate) for number in range(FRAMES)]


def test_a_full_disk_costs_one_segment(restorer, tmp_path, monkeypatch):
    """Of a clip so long that its beginning is not computed again; with and without threads."""
    clip, frames = write_clip(tmp_path / "clip.mp4", 141), 141
    expected = restore_clip(clip, tmp_path / "whole", replace(restorer, overlap=False)).output.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError):
        stopped_at(patch, frames - 4, OutputError("No space left on device"))
        restore_clip(clip, tmp_path / "out", restorer)
    (kept,) = hidden(tmp_path / "out")
    assert kept.endswith(".kept")
    report = restore_clip(clip, tmp_path / "out", restorer)
    assert frames - 13 <= report.kept <= frames - 4 and restorer.first_read(Place(report.kept)) > 0
    assert report.output.read_bytes() == expected and hidden(tmp_path / "out") == []


def test_other_settings_and_damage_are_said_and_cost_what_they_must(restorer, tmp_path, monkeypatch, caplog):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    expected = restore_clip(clip, tmp_path / "whole", restorer).output.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError):
        stopped_at(patch, 35, OutputError("No space left on device"))
        restore_clip(clip, tmp_path / "out", restorer)
    for name in ("seed", "damage", "none"):
        shutil.copytree(tmp_path / "out", tmp_path / name)
    with caplog.at_level(logging.WARNING):
        report = restore_clip(clip, tmp_path / "seed", replace(restorer, identity={"the seed": "7"}))
    assert report.kept == 0 and "the seed was 666 and is 7" in caplog.text
    second = sorted((tmp_path / "damage").glob(".*kept/*.mp4"))[1]
    second.write_bytes(second.read_bytes()[:-9] + bytes(9))
    with caplog.at_level(logging.WARNING):
        report = restore_clip(clip, tmp_path / "damage", restorer)
    assert 0 < report.kept < 20 and "piece 2" in caplog.text and report.output.read_bytes() == expected
    report = restore_clip(clip, tmp_path / "none", replace(restorer, identity=None))
    assert report.kept == 0 and hidden(tmp_path / "none") == []


def test_a_comparison_that_keeps_a_clip_from_resuming_is_said(restorer, tmp_path, caplog):
    clip, compared = (
        write_clip(tmp_path / "clip.mp4", FRAMES),
        replace(restorer, result_options=ResultOptions(compare=True)),
    )
    with caplog.at_level(logging.INFO):
        restore_clip(clip, tmp_path / "kept", restorer)
        assert "starts again" not in caplog.text
        restore_clip(clip, tmp_path / "compared", compared)
    assert caplog.text.count("clip.mp4: with --compare no segments are kept") == 1


def test_a_clip_of_one_segment_keeps_nothing(restorer, tmp_path, monkeypatch):
    monkeypatch.setattr(segmented, "LEAST_KEPT", FRAMES)
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    kept = restore_clip(clip, tmp_path / "a", restorer).output.read_bytes()
    assert kept == restore_clip(clip, tmp_path / "b", replace(restorer, identity=None)).output.read_bytes()


def test_a_run_in_is_no_longer_than_it_must_be():
    """Every step begins where the next one finds what it needs, on the borders of its own grid."""
    for kept, slice_frames, factor, encoder, decoder in ((4, 2, 2, 9, 11), (29, 16, 4, 30, 40), (3, None, 4, 5, 5)):
        grid = Grid(kept + 2, slice_frames, factor)
        borders = [frame for frame in range(1, 1000) if grid.ends_segment(frame)]
        assert [grid.first_frame(n * kept) for n in range(1, len(borders) + 1)] == borders
        for border in borders:
            start = run_in(Place(100 + border, 100), grid, encoder, decoder)
            assert grid.first_frame(start.wanted) == border and start.sampled % kept == 0
            assert start.decoded == 0 or start.wanted - kept - decoder < start.decoded <= start.wanted - decoder
            assert start.sampled == 0 or start.sampled + 2 <= start.decoded
            assert start.encoded == 0 or start.encoded <= start.sampled - encoder
