"""One file never costs another: whatever is raised while it is read, planned, computed or written is its own line."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.media import MediaWriter
from data.media.preview import SideBySide
from projects.video_diffusion_sr import restore, run_files
from projects.video_diffusion_sr.build import Request, build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.finite_guard import FiniteGuard
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from tests.attacks.harness import SMALL
from tests.projects.test_restore import write_clip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (24, 16), (90, 40 * i, 30)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    paths = ["--video_path", str(folder / "in"), "--output_dir", str(folder / "out")]
    return main(SEEDVR2_TINY, [*paths, *flags, *SMALL])


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


RAISED = [TypeError("'NoneType' object"), IndexError(), MemoryError(), OSError(errno.EIO, "Input/output error")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["look", "open", "read", "write"])
def test_whatever_is_raised_for_one_file(folder, monkeypatch, capfd, error, where):
    if where in ("look", "open"):
        module = run_files if where == "look" else restore
        opened = module.open_media
        monkeypatch.setattr(module, "open_media", raise_for("b.png", error, opened))
    elif where == "read":
        opened = restore.open_media
        monkeypatch.setattr(restore, "open_media", lambda path, **how: Failing(opened(path, **how), error))
    else:
        written = MediaWriter.write
        named = lambda writer, *rest: fail(error) if writer.path.name == "b.png" else written(writer, *rest)  # noqa: E731
        monkeypatch.setattr(MediaWriter, "write", named)
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert results(folder) == ["a.png", "c.png"], said
    lines = [line for line in said.splitlines() if "b.png: " in line]
    assert len(lines) == 1 and "Traceback" not in said and "1 of 3 files failed" in said


class Failing:
    """A reader that fails at the first frame of b.png."""

    def __init__(self, reader, error: Exception) -> None:
        self.reader, self.error = reader, error
        self.info, self.damage = reader.info, None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.reader.close()

    def __iter__(self):
        if self.info.path.name == "b.png":
            raise self.error
        return iter(self.reader)


def raise_for(name: str, error: Exception, otherwise):
    return lambda path, **how: fail(error) if Path(path).name == name else otherwise(path, **how)


def fail(error: Exception):
    raise error


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("network", "stage"), [("dit", "the transformer"), ("vae", "the VAE's ")])
def test_weights_that_are_not_finite_fail_the_clip(folder, monkeypatch, capfd, network, stage, value):
    def poisoned(*arguments):
        restorer = build(*arguments)
        last = list(getattr(restorer.infer, network).parameters())[-1]
        last.data.fill_(value)
        return restorer

    monkeypatch.setattr("projects.video_diffusion_sr.cli.build", poisoned)
    assert run(folder) == 1
    said = capfd.readouterr().err
    assert results(folder) == [] and "3 of 3 files failed" in said
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
    assert results(folder) == ["a.png", "b.png", "c.png", "compare", "d.mp4"]
    assert list((folder / "out" / "compare").iterdir()) == []


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


def test_names_that_would_paint_the_terminal_are_escaped(folder, capfd):
    Image.new("RGB", (24, 16)).save(folder / "in" / "x\x1b[2J\nforged: 9 of 9.png")
    assert run(folder) == 0
    said = capfd.readouterr().err
    assert "\x1b" not in said and "x\\x1b[2J\\nforged: 9 of 9.png" in said


def test_a_folder_that_has_the_name_of_a_result(folder, capfd):
    (folder / "out" / "b.png").mkdir(parents=True)
    assert run(folder, "--overwrite") == 1
    assert "b.png: " in (said := capfd.readouterr().err) and "is a folder" in said
    assert results(folder) == ["a.png", "b.png", "c.png"]


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


def test_random_weights_are_there_for_the_asking():
    assert Request(res=(32, 32)).random_weights is False
