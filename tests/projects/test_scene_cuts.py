"""Cuts: where they are, and that nothing is carried over one."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data.media import open_media
from data.media.errors import MediaError
from data.scene_cuts import find_cuts, thumbnail
from projects.video_diffusion_sr import restore
from projects.video_diffusion_sr.input_file import frames_of
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.restore import restore_clip
from projects.video_diffusion_sr.scene_cuts import OFF, SceneCuts, read_list
from tests.projects.test_resume import restorer  # noqa: F401 (a fixture)

SIZE = (24, 32)


def shot(seed: int, frames: int, speed: int = 1) -> np.ndarray:
    """A camera that moves over a blurred noise picture, uint8 [T, h, w, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 40, 3), dtype=np.uint8)
    picture = coarse.repeat(4, 0).repeat(4, 1)
    return np.stack([picture[4 : 4 + SIZE[0], n * speed % 100 :][:, : SIZE[1]] for n in range(frames)])


def write(path: Path, frames: np.ndarray) -> Path:
    """Without loss, so that a shot's frames are the same in every file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def cuts(frames: np.ndarray) -> list[int]:
    planes = (thumbnail(np.moveaxis(frame, 2, 0)) for frame in frames)
    return [number for number, begins in find_cuts(planes) if begins]


def test_cuts_are_found_where_they_are_and_nowhere_else():
    lengths = [7, 1, 12, 2, 5]
    joined = np.concatenate([shot(seed, length) for seed, length in enumerate(lengths)])
    borders = list(np.cumsum(lengths)[:-1])
    found = cuts(joined)
    assert set(found) <= set(borders) and {7 + 1 + 12, 7 + 1} <= set(found)  # shots of a frame may pass for a flash
    assert len(cuts(np.concatenate([shot(n, 9) for n in range(9)]))) == 8
    still, bright = shot(1, 20), shot(1, 20).astype(int)
    bright[9:11] += 90
    fade = still * np.linspace(1, 0, 20)[:, None, None, None]
    for quiet in (still, shot(1, 24, speed=4), np.clip(bright, 0, 255), fade, still[:1], still[:0]):
        assert cuts(quiet.astype(np.uint8)) == []


@pytest.mark.parametrize("light", [1.0, 0.15, 0.03])
def test_cuts_are_found_in_the_dark_and_a_change_of_a_part_is_none(light):
    """What counts is how much the pictures differ against how much each of them varies."""
    joined = (np.concatenate([shot(seed, 9) for seed in range(6)]) * light).astype(np.uint8)
    assert cuts(joined) == [9, 18, 27, 36, 45]
    entered = shot(1, 20, speed=0)
    entered[10:, 8:20, 8:20] = 255 - entered[10:, 8:20, 8:20]
    assert cuts((entered * light).astype(np.uint8)) == []


def test_every_frame_is_judged_by_at_most_three_behind_it():
    seen = []

    def planes():
        for number, frame in enumerate(shot(1, 30)):
            seen.append(number)
            yield thumbnail(np.moveaxis(frame, 2, 0))

    assert [(number, len(seen) - 1 - number) for number, _ in find_cuts(planes())][:28] == [(n, 2) for n in range(28)]


def frames_before_encoding(restorer, path: Path, source: str) -> torch.Tensor:  # noqa: F811
    with open_media(path) as reader, open_media(path) as again, ProgressBar("", None, show=False) as progress:
        restorer.apply_plan(reader.info)
        frames = frames_of(reader, SceneCuts(source)), frames_of(again, SceneCuts(OFF))
        return torch.cat(
            [part.arrive()[0][0] for part in restore.restore_frames(reader.info, *frames, restorer, progress)]
        )


@pytest.mark.parametrize("use_sample", [True, False])
def test_joined_shots_give_the_frames_of_the_shots_alone(restorer, tmp_path, use_sample):  # noqa: F811
    """The first one longer than a window, the second not a whole number of latents."""
    restorer = replace(restorer, use_sample=use_sample)
    shots = [shot(3, 21), shot(4, 8), shot(5, 12)]
    joined = write(tmp_path / "joined.mkv", np.concatenate(shots))
    alone = [frames_before_encoding(restorer, write(tmp_path / f"{n}.mkv", part), OFF) for n, part in enumerate(shots)]
    assert torch.equal(frames_before_encoding(restorer, joined, "auto"), torch.cat(alone))
    assert not torch.equal(frames_before_encoding(restorer, joined, OFF), torch.cat(alone))


def test_the_list_is_written_and_read_again(restorer, tmp_path):  # noqa: F811
    clip = write(tmp_path / "clip.mkv", np.concatenate([shot(3, 9), shot(4, 6)]))
    auto = replace(restorer, cuts=SceneCuts("auto", tmp_path / "lists"))
    found = restore_clip(clip, tmp_path / "auto", auto).output.read_bytes()
    written = tmp_path / "lists" / "clip.mkv.cuts.csv"
    assert read_list(written) == [9]
    for source in (written, written.parent):
        listed = replace(restorer, cuts=SceneCuts(str(source)))
        assert restore_clip(clip, tmp_path / source.name, listed).output.read_bytes() == found
    assert restore_clip(clip, tmp_path / "off", replace(restorer, cuts=SceneCuts(OFF))).output.read_bytes() != found
    (tmp_path / "bad.csv").write_text("frame,seconds\nnine\n")
    with pytest.raises(MediaError, match="line 2 begins with 'nine'"):
        restore_clip(clip, tmp_path / "bad", replace(restorer, cuts=SceneCuts(str(tmp_path / "bad.csv"))))
    written.unlink()
    with pytest.raises(MediaError, match=r"clip\.mkv\.cuts\.csv: cannot be read \(No such file"):
        restore_clip(clip, tmp_path / "none", replace(restorer, cuts=SceneCuts(str(written.parent))))


def test_a_shot_ends_a_segment(restorer):  # noqa: F811
    borders = [n for n in range(40) if n in restorer.grid.borders(0, 40, 0)]
    moved = [n for n in range(40) if n in restorer.grid.borders(100, 40, 100)]
    assert borders == moved and borders[0] == 0 and {b - a for a, b in pairwise(borders[1:])} == {8}
