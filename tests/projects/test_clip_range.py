"""A part of a clip through the program: what the same frames give that were cut out beforehand."""

from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from data.media import ClipRange
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.restore import restore_clip
from tests.projects.test_restore import read, restorer, write_clip  # noqa: F401 (restorer is a fixture)
from tests.projects.test_sequences import frames_in, run, tree


def cut_beforehand(source: Path, target: Path, first: int, count: int) -> Path:
    """The frames' own planes, without loss."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        shown = old.streams.video[0]
        stream = new.add_stream("libx264", rate=shown.average_rate, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        for number, frame in enumerate(old.decode(video=0)):
            if first <= number < first + count:
                frame.pts, frame.pict_type = number - first, 0
                frame.time_base = 1 / shown.average_rate
                new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    return target


@pytest.mark.parametrize("again", [False, True])
def test_a_part_gives_what_the_same_frames_give_cut_beforehand(restorer, tmp_path, again, monkeypatch):  # noqa: F811
    if again:  # the frames do not wait for the colour fix: the file is read a second time
        monkeypatch.setattr("projects.video_diffusion_sr.clip_run.KEPT", 0)
    clip = write_clip(tmp_path / "clip.mp4", 12)
    pictures = replace(restorer, result_options=ResultOptions(frames_out="png"))
    part = restore_clip(clip, tmp_path / "out", replace(pictures, clip_range=ClipRange(first=4, count=5)))
    cut = restore_clip(cut_beforehand(clip, tmp_path / "cut.mp4", 4, 5), tmp_path / "out", pictures)
    assert part.frames == cut.frames == 5 and part.output.name == "clip_f4-f9"
    assert torch.equal(read(part.output), read(cut.output))


def test_the_flags_name_a_part(tmp_path, capfd):
    walk = frames_in(tmp_path / "walk", 8)
    assert run(walk, tmp_path / "out", "--frames_as_clip", "--frames", "2:5", "--frames_out", "png") == 0
    assert tree(tmp_path / "out") == [f"walk_f2-f5/frame_{k:05d}.png" for k in (1, 2, 3)]
    clip = write_clip(tmp_path / "clip.mp4", 10)
    assert run(clip, tmp_path / "clips", "--start", "0:00.2", "--frames", "3") == 0
    assert run(clip, tmp_path / "clips", "--start", "0.2", "--frames", "3", "--skip_existing") == 0
    assert tree(tmp_path / "clips") == ["clip_0.2s-3f.mp4"] and len(read(tmp_path / "clips" / "clip_0.2s-3f.mp4")) == 3
    capfd.readouterr()
    assert run(clip, tmp_path / "late", "--start", "10") == 1
    assert "clip.mp4: has no frame from 10 s on, it has 0.40 s; begin earlier" in capfd.readouterr().err
    for flags, said in (
        (("--start", "2", "--frames", "3:5"), "both say where to begin"),
        (("--end", "2", "--frames", "3"), "both say where to end"),
        (("--start", "2", "--end", "2"), "--end is not behind --start"),
        (("--frames", "0"), "at least one frame"),
    ):
        assert run(clip, tmp_path / "none", *flags) == 2 and said in capfd.readouterr().err
