"""A clip that two ranks share goes on where it was, to the same bytes."""

from dataclasses import replace

import pytest

from common.distributed.parallel import Parallel
from common.distributed.process import Process
from data.media import segmented
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.file_errors import OutputError
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.restore import restore_clip
from projects.video_diffusion_sr.result import Result
from projects.video_diffusion_sr.segments import Place
from tests.parallel.ranks import run_ranks
from tests.projects.test_restore import SMALL, write_clip

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

FRAMES, STOP = 141, 133


def test_two_ranks_go_on_together(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    write = Result.write

    def stopping(result, stored, times, *rest):
        if result.frames <= STOP < result.frames + len(times):
            raise OutputError("No space left on device")
        write(result, stored, times, *rest)

    def work(process: Process) -> None:
        segmented.LEAST_KEPT = 8
        request = Request(res=(24, 32), random_weights=True, overrides=tuple(SMALL))
        restorer = build(SEEDVR2_TINY, request, Parallel(process, 2))
        restorer = replace(restorer, window=6, identity={})
        restore_clip(clip, tmp_path / "whole", restorer)
        Result.write = stopping
        with pytest.raises(OutputError):
            restore_clip(clip, tmp_path / "out", restorer)
        Result.write = write
        report = restore_clip(clip, tmp_path / "out", restorer)
        if process.is_leader:
            assert STOP - 12 < report.kept <= STOP and restorer.first_read(Place(report.kept)) > 0

    run_ranks(2, work)
    assert (tmp_path / "out" / "clip.mp4").read_bytes() == (tmp_path / "whole" / "clip.mp4").read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
