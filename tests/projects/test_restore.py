"""A file through the whole program on seeded weights: what comes out, and what never happens."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from data.media import MediaError, MediaInfo, open_media
from data.pixel_range import model_to_uint8
from projects.video_diffusion_sr import finishing, restore
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restore import Restorer, restore_clip

SMALL = ["dit.model.num_layers=2", "vae.model.block_out_channels=[8,8,16]"]
RES = (48, 64)


@pytest.fixture(scope="module")
def restorer() -> Iterator[Restorer]:
    request = Request(res=RES, random_weights=True, overrides=tuple(SMALL), window_frames=0)
    with process_group("cpu") as process:
        yield build(SEEDVR2_TINY, request, Parallel(process))


def write_clip(path: Path, frames: int, size: tuple[int, int] = (24, 32), rate: int = 25, start: int = 0) -> Path:
    """A clip that never repeats: a bright square wanders over a gradient."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.options = *size, "yuv420p", {"crf": "10"}
        for i in range(start, start + frames):
            picture = (
                np.linspace(30, 200, size[1], dtype=np.uint8)[None, :, None].repeat(size[0], 0).repeat(3, 2).copy()
            )
            picture[i % (size[0] - 8) :][:8, (2 * i) % (size[1] - 8) :][:, :8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path: Path) -> torch.Tensor:
    with open_media(path) as reader:
        return torch.stack([frame.pixels for frame in reader])


@pytest.mark.parametrize("frames", [1, 2, 9, 10])
def test_every_frame_in_is_a_frame_out(restorer, tmp_path, frames):
    clip = write_clip(tmp_path / "clip.mp4", frames)
    report = restore_clip(clip, tmp_path / "out", restorer)
    assert report.frames == frames and report.size == RES
    with open_media(report.output) as reader:
        times = [frame.time for frame in reader]
        assert (reader.info.height, reader.info.width, reader.info.frame_rate) == (*RES, 25)
    assert times == [Fraction(i, 25) for i in range(frames)]


def frames_before_the_codec(restorer: Restorer, path: Path, plan: MemoryPlan | None = None) -> torch.Tensor:
    """What `restore_clip` would write."""
    with open_media(path) as reader, open_media(path) as again, ProgressBar("", None, show=False) as progress:
        restorer.apply_plan(reader.info, plan)
        finished = restore.restore_frames(reader.info, iter(reader), iter(again), restorer, progress)
        return torch.cat([part.arrive()[0][0] for part in finished])


@pytest.mark.parametrize("frames", [2, 4, 6])
def test_slices_do_not_change_a_result(restorer, tmp_path, frames):
    clip, plan = write_clip(tmp_path / "clip.mp4", 13), restorer.default_plan(*RES, False)
    in_slices = {n: replace(plan, schedule=replace(plan.schedule, slice_frames=n)) for n in (None, frames)}
    whole, sliced = (frames_before_the_codec(restorer, clip, in_slices[n]) for n in (None, frames))
    assert whole.shape == (13, 3, *RES)
    assert (whole.int() - sliced.int()).abs().max() <= 1  # one level, where rounding falls on the other side


def test_neighbours_do_not_change_a_result(restorer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 5)
    alone = restore_clip(clip, tmp_path / "a", restorer).output
    restore_clip(write_clip(tmp_path / "other.mp4", 5, start=40), tmp_path / "b", restorer)
    assert restore_clip(clip, tmp_path / "b", restorer).output.read_bytes() == alone.read_bytes()


def test_the_seed_is_what_changes_a_result(restorer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    results = [read(restore_clip(clip, tmp_path / name, replace(restorer, seed=seed)).output)
               for name, seed in (("a", 1), ("b", 1), ("c", 2))]  # fmt: skip
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_long_clips_in_windows_keep_every_frame(restorer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 24)
    report = restore_clip(clip, tmp_path / "out", replace(restorer, window=5))
    assert report.frames == len(read(report.output)) == 24


def test_strength_zero_is_the_resized_input(restorer, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "still.png")
    none = replace(restorer, result_options=ResultOptions(strength=0.0))
    result = read(restore_clip(tmp_path / "still.png", tmp_path / "out", none).output)[0]
    source = read(tmp_path / "still.png")[0]
    expected = model_to_uint8(restorer.geometry.to_output(source, "cpu"))
    assert torch.equal(result, expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_pictures_are_written_in_the_format_of_their_extension(restorer, tmp_path, suffix):
    source = tmp_path / f"still{suffix}"
    Image.new("RGB", (33, 25), (200, 60, 20)).save(source)
    output = restore_clip(source, tmp_path / "out", restorer).output
    with Image.open(output) as result, Image.open(source) as original:
        assert output.name == source.name and result.format == original.format
        assert result.size[::-1] == restorer.geometry.output_size(25, 33)


def test_compare_writes_a_clip_and_a_sheet(restorer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 30)
    report = restore_clip(clip, tmp_path / "out", replace(restorer, result_options=ResultOptions(compare=True)))
    side = read(report.output.parent / "compare" / "clip.mp4")
    assert side.shape == (30, 3, RES[0], 2 * RES[1])
    with Image.open(report.output.parent / "compare" / "clip.png") as sheet:
        assert sheet.width >= 2 * RES[1] and sheet.height >= 6 * RES[0]


def test_a_failure_in_the_middle_leaves_nothing(restorer, tmp_path, monkeypatch):
    def broken(*_):
        raise MediaError("clip.mp4: the disk is full")

    monkeypatch.setattr(finishing, "fix_colour", broken)
    with pytest.raises(MediaError):
        restore_clip(
            write_clip(tmp_path / "clip.mp4", 9),
            tmp_path / "out",
            replace(restorer, result_options=ResultOptions(compare=True)),
        )
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def run(tmp_path: Path, *flags: str) -> int:
    small = ["--device", "cpu", "--res_h", "32", "--res_w", "48", "--random_weights", "--set", *SMALL]
    return main(
        SEEDVR2_TINY,
        ["--video_path", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), *flags, *small, "--no_record"],
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", 3)
    Image.new("RGB", (32, 24), (90, 120, 30)).save(tmp_path / "in" / "b.png")
    return tmp_path


def test_a_folder_with_a_broken_file_and_a_stray_one(folder, capfd):
    (folder / "in" / "broken.mp4").write_bytes(b"not a video at all" * 100)
    (folder / "in" / "notes.txt").write_text("stray")
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert {path.name for path in (folder / "out").iterdir()} == {"a.mp4", "b.png"}
    assert "broken.mp4" in said and "notes.txt: skipped" in said and "1 of 3 files failed" in said
    assert "SEEDED RANDOM WEIGHTS" in said and "3 frames of" in said


def test_existing_results_are_touched_only_on_request(folder, capfd):
    assert run(folder) == 0
    first = {path: path.stat().st_mtime_ns for path in (folder / "out").iterdir()}
    assert run(folder) == 1 and "--overwrite" in capfd.readouterr().err
    assert run(folder, "--skip_existing") == 0 and "exists" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").iterdir()} == first
    assert run(folder, "--overwrite") == 0
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in first.items())


def test_the_input_is_never_replaced(folder, capfd):
    before = (folder / "in" / "a.mp4").read_bytes()
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").symlink_to(folder / "in")
    assert run(folder, "--overwrite") == 1
    assert "would replace the input" in capfd.readouterr().err
    assert (folder / "in" / "a.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--strength", "2"], "--strength"),
        (["--crf", "99"], "--crf"),
        (["--window", "2", "--res_h", "64"], "window"),
        (["--sp_size", "3"], "sp_size=3"),
        (["--lora", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_requests_end_with_a_sentence(folder, capfd, flags, said):
    assert run(folder, *flags) == 2
    assert said in capfd.readouterr().err and not list((folder / "out").glob("*.mp4"))


def test_an_output_folder_that_is_a_file_is_a_sentence(folder, capfd):
    (folder / "out").write_text("not a folder")
    assert run(folder) == 2
    assert "is a file; name a folder" in capfd.readouterr().err


def test_an_interrupted_run_leaves_finished_files_only(folder, capfd, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    assert run(folder) == 0
    write_clip(folder / "in" / "c.mp4", 3)
    monkeypatch.setattr(finishing, "fix_colour", interrupted)
    assert run(folder, "--skip_existing") == 130
    assert "--skip_existing goes on" in capfd.readouterr().err
    assert sorted(path.name for path in (folder / "out").iterdir() if path.is_file()) == ["a.mp4", "b.png"]


def test_missing_weights_say_what_to_download(folder, capfd):
    from projects.video_diffusion_sr.presets import SEEDVR2_3B

    flags = [
        "--video_path",
        str(folder / "in"),
        "--output_dir",
        str(folder / "out"),
        "--ckpt_dir",
        str(folder / "none"),
    ]
    assert main(SEEDVR2_3B, [*flags, "--device", "cpu"]) == 2
    assert "projects/download.py seedvr2_3b" in capfd.readouterr().err


def test_a_missing_input_is_a_sentence(tmp_path, capfd):
    assert run(tmp_path) == 2
    assert "there is no such file or folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("count", "window", "latents"),
    [(None, None, None), (1, None, None), (2, None, 2), (97, 5, 5), (10**12, None, None), (10**12, 5, 5)],
)
def test_what_is_worked_out_ahead_is_the_first_window(restorer, count, window, latents):
    """A container that claims a trillion frames makes nobody build a layout for them."""
    info = MediaInfo(Path("clip"), "video", 32, 24, frame_count_hint=count)
    found = replace(restorer, window=window).expected_latents(info)
    height, width = restorer.latent_size(info)
    assert found == (None if latents is None else (latents, height, width))
