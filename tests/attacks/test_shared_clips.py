"""Where two ranks share a clip, what fails on one of them fails on both, and the next file goes on."""

import errno
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from common.distributed.parallel import Parallel
from common.distributed.process import Process
from data.media import MediaWriter
from projects.video_diffusion_sr import input_file, run_files
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.run_order import Job, restore_one
from tests.attacks.harness import SMALL
from tests.parallel.ranks import run_ranks
from tests.projects.test_restore import write_clip

pytestmark = pytest.mark.parallel


def test_one_rank_fails_and_the_group_goes_on(tmp_path, monkeypatch):
    names = ("fine1.png", "open.png", "write.mp4", "finite.mp4", "publish.png", "exists.png", "fine2.png")
    for name in names:
        if name.endswith(".mp4"):
            write_clip(tmp_path / name, 9, (16, 24))
        else:
            Image.new("RGB", (24, 16)).save(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "exists.png").write_bytes(b"of another run")
    opened, written, left = input_file.open_media, MediaWriter.write_planes, MediaWriter.__exit__

    def work(process: Process) -> None:
        def open_media(path, **how):
            if path.name == "open.png" and process.rank == 1:
                raise OSError(errno.EIO, "Input/output error")
            return opened(path, **how)

        def write(writer, *frames):
            if writer.path.name == "write.mp4":
                raise OSError(errno.ENOSPC, "No space left on device")
            written(writer, *frames)

        def leave(writer, kind, *rest):
            if writer.path.name == "publish.png" and kind is None:
                left(writer, OSError, OSError(), None)
                raise OSError(errno.ENOSPC, "No space left on device")
            left(writer, kind, *rest)

        monkeypatch.setattr(input_file, "open_media", open_media)
        monkeypatch.setattr(MediaWriter, "write_planes", write)
        monkeypatch.setattr(MediaWriter, "__exit__", leave)
        request = Request(res=(32, 48), random_weights=True, overrides=tuple(SMALL[SMALL.index("--set") + 1 :]))
        restorer = build(SEEDVR2_TINY, request, Parallel(process, 2))
        watch, decode = restorer.infer.guard.watch, restorer.infer.decode_slice
        good, plans = {}, dict.fromkeys(tmp_path / name for name in names)
        job = Job(tmp_path / "out", restorer, plans, "refuse")
        for name in names:
            # The second rank's rows are not finite; the guard of the first one, which writes, sees none of them.
            poisoned = name == "finite.mp4" and process.rank == 1
            restorer.infer.decode_slice = (
                (lambda *a: watch("the VAE's decoder", decode(*a) * float("nan"))) if poisoned else decode
            )
            good[name] = restore_one(tmp_path / name, job)
        torch.save(good, tmp_path / f"good{process.rank}")

    run_ranks(2, work)
    for rank in range(2):
        good = torch.load(tmp_path / f"good{rank}")
        assert [name for name in names if good[name]] == ["fine1.png", "fine2.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["exists.png", "fine1.png", "fine2.png"]
    assert (tmp_path / "out" / "exists.png").read_bytes() == b"of another run"


def test_one_rank_looks_at_the_files_and_all_find_the_same(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 16)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "damaged.png").write_bytes(b"\x89PNG\r\n damaged")
    (tmp_path / "in" / "cut.mp4").write_bytes(write_clip(tmp_path / "whole.mp4", 9, (16, 24)).read_bytes()[:400])
    flags = ["--video_path", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]

    def work(process: Process) -> None:
        if process.rank:
            monkeypatch.setattr(run_files, "probe_all", None)
        seen = run_files.survey(parser(SEEDVR2_TINY).parse_args(flags), process)
        assert (seen.total, seen.failed, seen.refusal) == (3, 2, None)
        assert {path.name: vars(clip) for path, clip in seen.clips.items()} == {
            "a.png": {"height": 16, "width": 24, "frames": 1, "still": True, "repeated": 0, "deep": False}
        }

    run_ranks(2, work)


def test_the_others_wait_for_as_long_as_the_leader_works():
    def look() -> list[int]:
        time.sleep(1.5)
        return [7]

    run_ranks(2, lambda process: check(replace(process, timeout_s=0.3).broadcast_from_leader(look)))


def check(found: list[int]) -> None:
    assert found == [7]
