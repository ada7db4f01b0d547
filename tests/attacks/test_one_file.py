"""One file never costs another: whatever is raised while it is read, planned, computed or written is its own line."""

import errno
import functools
import resource
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.media import MediaWriter, media_writer, probe_all
from data.media.preview import SideBySide
from projects.video_diffusion_sr import input_file, run_files
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.file_errors import sentence
from projects.video_diffusion_sr.finite_guard import FiniteGuard
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.attacks.harness import ENVIRONMENT, SMALL, make_folder
from tests.attacks.test_media_probe import HostileProcess
from tests.projects.test_restore import write_clip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate("ab"):
        Image.new("RGB", (24, 16), (90, 40 * i, 30)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    paths = ["--video_path", str(folder / "in"), "--output_dir", str(folder / "out")]
    return main(SEEDVR2_TINY, [*paths, *flags, *SMALL])


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir() if path.suffix != ".json")


RAISED = [TypeError("'NoneType' object"), OSError(errno.EIO, "Input/output error")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_for_one_file(folder, monkeypatch, capfd, error):
    """Four files, each of which fails at another place, between two that do not."""
    for name in ("look", "open", "read", "write"):
        Image.new("RGB", (24, 16)).save(folder / "in" / f"{name}.png")
    monkeypatch.setattr(run_files, "place_of_result", raise_for("look.png", error, run_files.place_of_result))
    opened, written = raise_for("open.png", error, input_file.open_media), MediaWriter.write_planes
    monkeypatch.setattr(input_file, "open_media", lambda path, **how: Failing(opened(path, **how), error))

    def write(writer: MediaWriter, *rest) -> None:
        fail(error) if writer.path.name == "write.png" else written(writer, *rest)

    monkeypatch.setattr(MediaWriter, "write_planes", write)
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert results(folder) == ["a.png", "b.png"], said
    for name in ("look", "open", "read", "write"):
        assert len([line for line in said.splitlines() if f"{name}.png: " in line]) == 1, said
    assert "Traceback" not in said and "4 of 6 files failed" in said


def test_a_disk_that_becomes_read_only_costs_the_files_of_that_time(folder, monkeypatch, capfd):
    """What is unfinished cannot even be removed: that is told beside the reason, and the next file is restored."""
    read_only, written = OSError(errno.EROFS, "Read-only file system"), MediaWriter.write_planes

    def write(writer: MediaWriter, *rest) -> None:
        fail(read_only) if writer.path.name == "a.png" else written(writer, *rest)

    removed = media_writer.remove

    def remove(part: Path) -> None:
        fail(read_only) if part.stat().st_size == 0 else removed(part)

    monkeypatch.setattr(MediaWriter, "write_planes", write)
    monkeypatch.setattr(media_writer, "remove", remove)
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert "a.png: cannot be written: Read-only file system" in said and "1 of 2 files failed" in said
    assert "a.png: hidden files of it stay for the next run to remove" in said
    assert [name for name in results(folder) if not name.startswith(".")] == ["b.png"]
    monkeypatch.undo()
    assert run(folder, "--skip_existing") == 0 and results(folder) == ["a.png", "b.png"]


def test_every_sentence_starts_with_the_file():
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA"), KeyError("x"), ValueError("odd"), OSError(28, "full")):
        assert sentence(error, Path("in") / "a.mp4").startswith("a.mp4: ")
    assert "out of memory" in sentence(MemoryError(), Path("a.mp4"))
    for side in (10**7, 10**10):  # what PyTorch really says of tensors that no memory holds
        with pytest.raises(RuntimeError) as impossible:
            torch.empty(side, side, 16, device="cpu")
        assert "a.mp4: out of memory; try a smaller size" in sentence(impossible.value, Path("a.mp4"))


class Failing:
    """A reader that fails at the first frame of read.png."""

    def __init__(self, reader, error: Exception) -> None:
        self.reader, self.error = reader, error
        self.info, self.damage = reader.info, None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.reader.close()

    def reopened(self):
        return self.reader.reopened()

    def __iter__(self):
        if self.info.path.name == "read.png":
            raise self.error
        return iter(self.reader)


def raise_for(name: str, error: Exception, otherwise):
    return lambda path, *rest, **how: fail(error) if Path(path).name == name else otherwise(path, *rest, **how)


def fail(error: Exception):
    raise error


def test_a_decoder_that_dies_or_hangs_costs_its_file(folder, monkeypatch, capfd):
    for name in ("abort", "hang"):
        Image.new("RGB", (24, 16)).save(folder / "in" / f"{name}.png")
    monkeypatch.setattr(run_files, "probe_all", functools.partial(probe_all, timeout_s=1, start=HostileProcess))
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert results(folder) == ["a.png", "b.png"], said
    for line in ("abort.png: its decoder died (SIGABRT)", "hang.png: its decoder took longer than 1 s"):
        assert said.count(line) == 1, said
    assert "Traceback" not in said and "2 of 4 files failed" in said


@pytest.mark.parametrize(
    ("network", "stage", "value"), [("dit", "the transformer", float("inf")), ("vae", "the VAE's ", float("nan"))]
)
def test_weights_that_are_not_finite_fail_the_clip(folder, monkeypatch, capfd, network, stage, value):
    def poisoned(*arguments):
        restorer = load(*arguments)
        last = list(getattr(restorer.infer, network).parameters())[-1]
        last.data.fill_(value)
        return restorer

    monkeypatch.setattr("projects.video_diffusion_sr.cli.load", poisoned)
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert results(folder) == [] and "2 of 2 files failed" in said
    assert f"a.png: {stage}" in said and "not finite" in said and "--dtype" in said


def test_the_guard_names_the_first_stage_and_forgets_the_last_clip():
    guard = FiniteGuard()
    guard.watch("one", torch.ones(3))
    guard.watch("two", torch.tensor([1.0, float("inf"), -float("inf")]))
    guard.watch("three", torch.tensor([float("nan")]).half())
    with pytest.raises(ValueError, match=r"^a\.mp4: two returned"):
        guard.check("a.mp4")
    guard.begin()
    guard.watch("one", torch.full((4,), 6e4).half())  # whose sum is no float16
    guard.check("b.mp4")


def test_a_comparison_that_fails_does_not_cost_the_result(folder, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_clip(folder / "in" / "d.mp4", 3)
    monkeypatch.setattr(SideBySide, "write", full)
    assert run(folder, "--compare") == 0
    said = capfd.readouterr().err
    assert "a.png: cannot be compared: No space left" in said
    assert results(folder) == ["a.png", "b.png", "compare", "d.mp4"]
    assert list((folder / "out" / "compare").iterdir()) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_a_line(folder, capfd):
    """What a full disk does, without one: no file of this process may become longer than so many bytes."""
    write_clip(folder / "in" / "d.mp4", 9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert run(folder, "--compare") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "d.mp4: " in capfd.readouterr().err
    assert "d.mp4" not in results(folder) and not list((folder / "out").rglob(".*"))


def test_odd_names(folder, capfd):
    """A name that would paint the terminal is escaped; a folder that has a result's name costs that result alone."""
    (folder / "in" / "a.png").rename(folder / "in" / "x\x1b[2J\nforged: 9 of 9.png")
    (folder / "out" / "b.png").mkdir(parents=True)
    assert run(folder, "--overwrite") == 1
    said = capfd.readouterr().err
    assert "\x1b" not in said and "x\\x1b[2J\\nforged: 9 of 9.png -> " in said
    assert "b.png: " in said and "is a folder" in said and len(results(folder)) == 2


@pytest.mark.parametrize("there", [(), ("dit",), ("vae",), ("dit", "vae")])
def test_weights_that_are_missing_are_an_error(folder, capfd, there):
    flags = ["--video_path", str(folder / "in"), "--output_dir", str(folder / "out"), "--ckpt_dir", str(folder / "w")]
    (folder / "w" / "tiny").mkdir(parents=True)
    for name in there:
        (folder / "w" / "tiny" / f"{name}.safetensors").write_bytes(b"x")
    assert main(SEEDVR2_TINY, [*flags, "--device", "cpu"]) == 2
    said = capfd.readouterr().err
    if len(there) < 2:
        assert "not found" in said and "--random_weights" in said
    assert results(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["24k", "64k", "160k"])
def test_a_disk_that_becomes_full(tmp_path, size):
    """A small disk in memory: what fits is whole, what does not is a line, and the comparison gives way."""
    folder = make_folder(tmp_path, 3, clips=2, frames=(40, 41))
    folder.output.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder.output)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        run = folder.start("--compare")
        said = run.communicate(timeout=200)[1]
        assert run.returncode in (0, 1) and "Traceback" not in said
        assert folder.damaged() == [] and folder.hidden() == [], said
        failed = [name for name in folder.missing() if f"{name}: " in said]
        assert failed == folder.missing() and (run.returncode == 1) == bool(failed), said
    finally:
        subprocess.run(["umount", str(folder.output)], check=True)


@pytest.mark.slow
def test_closed_standard_streams(tmp_path):
    folder = make_folder(tmp_path, 4, clips=1)
    command = " ".join(map(shlex.quote, folder.command()))
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], check=False, env=ENVIRONMENT).returncode == 0
    assert folder.damaged() == folder.missing() == folder.hidden() == []
