"""A folder through the whole program on several ranks: the files that one rank alone would have written."""

import pytest
import torch
from PIL import Image

from common.distributed.parallel import Parallel
from common.distributed.process import Process, process_group
from data.media import OutputOptions
from models.video_vae_v3.modules.schedule import LevelSchedule, Schedule
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restore import restore_clip
from tests.parallel.ranks import run_ranks
from tests.projects.test_restore import RES, SMALL, read, write_clip

pytestmark = pytest.mark.parallel

WINDOW_FRAMES = 17  # the longer clip needs two windows


@pytest.mark.parametrize("worlds", [(2,), pytest.param((3, 4), marks=pytest.mark.slow)])
def test_any_number_of_ranks_writes_the_same_files(tmp_path, worlds):
    sources = [write_clip(tmp_path / "long.mp4", 21), write_clip(tmp_path / "short.mp4", 2, start=9)]
    sources.append(tmp_path / "still.png")
    Image.effect_noise((32, 24), 90).convert("RGB").save(sources[-1])

    def restore_all(process: Process, sp_size: int, shard: bool, folder: str) -> list:
        request = Request(
            res=RES,
            random_weights=True,
            overrides=tuple(SMALL),
            window_frames=WINDOW_FRAMES,
            shard_weights=shard,
            result_options=ResultOptions(output=OutputOptions(crf=0)),  # lossless: a codec can make many levels of one
        )
        parallel = Parallel(process, sp_size)
        restorer = build(SEEDVR2_TINY, request, parallel)
        files = parallel.files(sources, cost=lambda path: path.stat().st_size, journal=tmp_path / folder)
        return [restore_clip(path, tmp_path / folder, restorer) for path in files]

    def work(process: Process) -> None:
        reports = restore_all(process, process.world, shard=True, folder=f"on_{process.world}")
        assert all(report is not None for report in reports) == process.is_leader and len(reports) == len(sources)

    with process_group("cpu") as alone:
        restore_all(alone, 1, shard=False, folder="alone")
    for world in worlds:
        run_ranks(world, work)
        assert sorted(p.name for p in (tmp_path / f"on_{world}").iterdir()) == sorted(p.name for p in sources)
        for source in sources:
            one, many = (read(tmp_path / folder / source.name).int() for folder in ("alone", f"on_{world}"))
            assert one.shape == many.shape
            assert (one - many).abs().max() <= 4, source.name  # one level, through Y'CbCr and back


def test_groups_take_different_files(tmp_path):
    sources = [write_clip(tmp_path / f"{name}.mp4", 2, start=i) for i, name in enumerate("abcd")]
    request = Request(res=RES, random_weights=True, overrides=tuple(SMALL))

    def work(process: Process) -> None:
        parallel = Parallel(process, 1)
        restorer = build(SEEDVR2_TINY, request, parallel)
        done = [restore_clip(path, tmp_path / "out", restorer) for path in parallel.files(sources, cost=lambda path: 1)]
        torch.save([report.source.name for report in done], tmp_path / f"done{process.rank}")

    run_ranks(2, work)
    shares = [torch.load(tmp_path / f"done{rank}") for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == [path.name for path in sources]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in sources]


@pytest.mark.slow
def test_tiles_are_of_whole_pictures_on_any_number_of_ranks(tmp_path):
    """A plan in tiles does not share rows: each rank computes all tiles, so no seam lies between blocks of rows."""
    clip = write_clip(tmp_path / "clip.mp4", 5)
    direct = LevelSchedule()
    plan = MemoryPlan(Schedule(4, (direct,) * 3, tile=18))
    request = Request(res=(96, 96), window_frames=0, result_options=ResultOptions(output=OutputOptions(crf=0)))

    def work(process: Process) -> None:
        parallel = Parallel(process, process.world)
        restorer = build(SEEDVR2_TINY, request, parallel, [plan])
        restore_clip(clip, tmp_path / f"on_{process.world}", restorer, plan=plan)

    with process_group("cpu") as alone:
        work(alone)
    run_ranks(2, work)
    one, two = (read(tmp_path / folder / "clip.mp4").int() for folder in ("on_1", "on_2"))
    assert (one - two).abs().max() <= 4
