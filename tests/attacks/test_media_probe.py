"""A decoder that dies or hangs takes its own process with it, and costs one file one line."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from data.media import MediaError, Probe, open_media, probe_all
from data.media.probe import probe
from data.media.probe_process import ProbeProcess
from tests.conftest import ROOT
from tests.data.media_samples import even_times, smooth_clip, write_clip

HOSTILE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from data.media import probe, probe_worker
whole = probe.holds_picture

def hostile(path):
    name = os.path.basename(path)
    if name == "abort.png":
        os.abort()
    if name == "exit.png":
        os._exit(3)
    if name == "hang.png":
        while True:
            time.sleep(1)
    if name == "spin.png":
        while True:
            pass
    if name == "greedy.png":
        bytearray(8 << 30)
    if name == "noisy.png":
        os.write(1, b"noise of a library\\n")
        os.write(2, b"noise of a library\\n")
    return whole(path)

probe.holds_picture = hostile
probe_worker.serve(int(sys.argv[2]), float(sys.argv[3]))
"""


class HostileProcess(ProbeProcess):
    """A worker whose decoder does what a file's name says."""

    def program(self) -> str:
        return HOSTILE


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "abort", "b", "exit", "greedy", "hang", "noisy", "spin", "z"):
        Image.new("RGB", (33, 24)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_decoder_that_dies_or_hangs_costs_one_file(folder):
    names = ("a", "abort", "b", "exit", "hang", "noisy", "spin", "z")
    started = time.monotonic()
    paths = [folder / f"{name}.png" for name in names]
    found = {p.stem: probed for p, probed in probe_all(paths, timeout_s=1, start=HostileProcess)}
    assert list(found) == list(names)
    good = Probe("image", 24, 33, 1)
    assert all(found[name] == good for name in ("a", "b", "noisy", "z"))
    assert str(found["abort"]).startswith("abort.png: its decoder died (SIGABRT)")
    assert str(found["exit"]).startswith("exit.png: its decoder died (exit code 3)")
    for name in ("hang", "spin"):
        assert str(found[name]).startswith(f"{name}.png: its decoder took longer than 1 s")
    assert time.monotonic() - started < 60


def test_memory_is_limited_for_each_file(folder):
    paths = [folder / "greedy.png", folder / "z.png"]
    (_, greedy), (_, good) = probe_all(paths, memory_bytes=4 << 30, start=HostileProcess)
    assert isinstance(greedy, MediaError) and "greedy.png: there is not enough memory" in str(greedy)
    assert good == Probe("image", 24, 33, 1)


def test_a_probe_agrees_with_the_reader_and_starts_no_torch(tmp_path):
    write_clip(tmp_path / "a.mp4", smooth_clip(3, 32, 64), even_times(3), rotation=90, audio="aac")
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in (".jpg", ".tif", ".png"):
        options = {"tiffinfo": {0x0112: 6}} if suffix == ".tif" else {"exif": exif}
        Image.new("RGB", (33, 24)).save(tmp_path / f"b{suffix}", **options)
    frames = [Image.new("RGB", (33, 24), (k, 0, 0)) for k in range(3)]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:], duration=40)
    (tmp_path / "d.mp4").write_bytes(b"no clip")
    for path, probed in probe_all(sorted(tmp_path.iterdir())):
        if path.name == "d.mp4":
            assert str(probed).startswith("d.mp4: not a video or picture")
            continue
        info = open_media(path).info
        seconds = float(info.duration) if info.kind == "video" else None
        codecs = info.audio_codecs
        expected = Probe(info.kind, info.height, info.width, info.frame_count_hint, codecs, duration=seconds)
        assert probed == expected == probe(path), path.name
    code = "import sys, data.media.probe_process, data.media.probe_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_without_a_process_files_are_probed_here(folder):
    class Impossible(ProbeProcess):
        def __init__(self, *args):
            raise OSError("no more processes")

    assert [probed for _, probed in probe_all([folder / "a.png"], start=Impossible)] == [Probe("image", 24, 33, 1)]


def test_no_process_is_left_behind(folder):
    running = []

    class Counted(ProbeProcess):
        def __init__(self, *args):
            super().__init__(*args)
            running.append(self.process)

    for _ in probe_all([folder / "a.png", folder / "b.png"], start=Counted):
        break  # a generator that is dropped in the middle
    deadline = time.monotonic() + 10
    while any(p.poll() is None for p in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(running) == 1 and running[0].poll() is not None
    assert not Path(f"/proc/{running[0].pid}/cwd").exists()
