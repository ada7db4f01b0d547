"""However a plan places networks and cuts their work, the pipeline gives what it gives without one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from models.video_vae_v3.modules.schedule import F23, F43, LevelSchedule, Schedule
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from projects.benchmarking.pipeline import NoiseClip
from projects.video_diffusion_sr import cli, run_files
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.memory.budget import make_budget
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.restore import Restorer
from tests.projects.test_restore import frames_before_the_codec, run, write_clip

RES, FRAMES, WINDOW = (48, 96), 8, 7  # windows of four latent frames: encoder, transformer and decoder take turns
DIRECTLY = LevelSchedule()


def schedule(*levels: LevelSchedule, frames: int = 2, tile: int | None = None) -> Schedule:
    """The tiny VAE has three levels, the last of which comes half as often."""
    return Schedule(frames, (*levels, *(DIRECTLY,) * (3 - len(levels))), tile=tile)


def filtered(winograd: int) -> Schedule:
    return schedule(*(LevelSchedule(winograd, winograd),) * 2, frames=winograd)


PLAIN = MemoryPlan(schedule())
EXACT = {
    "one at a time": MemoryPlan(schedule(), offload="models", offload_carried=True),
    "blocks": MemoryPlan(schedule(), offload="blocks", token_chunk=50, offload_carried=True),
    "single frames": MemoryPlan(schedule(*map(LevelSchedule, (1, 2, 1))), token_chunk=50),  # time is halved in pairs
    "F(4, 3)": MemoryPlan(filtered(F43)),
    "F(2, 3), one at a time": MemoryPlan(filtered(F23), offload="models", offload_carried=True),
    "one tile": MemoryPlan(schedule(frames=4, tile=24), offload="models"),
}


@pytest.fixture(scope="module")
def make() -> Callable[..., Restorer]:
    def of(*plans: MemoryPlan) -> Restorer:
        restorer = build(SEEDVR2_TINY, Request(res=RES, window_frames=WINDOW), parallel, plans)
        return replace(restorer, default_plan=lambda *_: plans[0] if plans else PLAIN)

    with process_group("cpu") as process:
        parallel = Parallel(process)
        yield of


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, (16, 32))


def result(restorer: Restorer, clip: Path, plan: MemoryPlan | None = None) -> torch.Tensor:
    return frames_before_the_codec(restorer, clip, plan).int()


@pytest.fixture(scope="module")
def expected(make, clip) -> torch.Tensor:
    return result(make(), clip)


@pytest.mark.parametrize("plan", EXACT.values(), ids=EXACT)
def test_exact_plans_change_nothing(make, clip, expected, plan):
    restored = result(make(plan), clip)
    assert restored.shape == expected.shape and (restored - expected).abs().max() <= 1  # where rounding falls


def test_who_computes_is_on_the_device_and_who_waits_is_not(make, clip, monkeypatch):
    """A copy on the device lies elsewhere than the master on the host, on a CPU as well."""
    restorer = make(EXACT["one at a time"])
    infer = restorer.infer
    networks = {"vae": infer.vae, "dit": infer.dit}

    def places(network: torch.nn.Module) -> set[int]:
        return {tensor.data_ptr() for tensor in network.parameters()}

    masters = {name: places(network) for name, network in networks.items()}
    seen = []

    def check(computing: str, run: Callable) -> Callable:
        def checked(*args, **kwargs):
            for name, network in networks.items():
                assert places(network).isdisjoint(masters[name]) == (name == computing)
            seen.append(computing)
            return run(*args, **kwargs)

        return checked

    monkeypatch.setattr(infer.vae, "encode_slice", check("vae", infer.vae.encode_slice))
    monkeypatch.setattr(infer.vae, "decode_slice", check("vae", infer.vae.decode_slice))
    monkeypatch.setattr(infer.dit, "forward", check("dit", infer.dit.forward))
    result(restorer, clip)
    turns = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert turns == ["vae", "dit", "vae", "dit", "vae"]


def test_a_plan_for_each_clip(make, clip, expected):
    """Plans follow each other on the same networks, whichever comes first."""
    restorer = make(PLAIN, EXACT["one at a time"], EXACT["F(4, 3)"], EXACT["one tile"])
    for plan in (EXACT["one tile"], PLAIN, EXACT["F(4, 3)"], replace(PLAIN, offload="models", prefetch=True)):
        assert (result(restorer, clip, plan) - expected).abs().max() <= 1
        assert restorer.infer.stages.buffer_device == torch.device("cpu") == restorer.device


def test_eight_bits_change_little_and_do_not_wear_out(make, clip, expected):
    restorer = make(replace(PLAIN, storage_8_bit=True, offload="blocks"))
    away = [(result(restorer, clip) - expected).abs().float() for _ in range(2)]
    assert 0 < away[0].mean() < 1.5
    assert torch.equal(*away), "casting to and fro must not wear the weights out"


def test_tiles_come_close_and_leave_no_seam(make, clip, expected):
    restored = result(make(MemoryPlan(schedule(frames=4, tile=18), offload="models")), clip)
    away = (restored - expected).abs().float().mean((0, 1, 2))  # by column of the picture
    assert 0 < away.mean() < 2
    assert away.max() < 4 * away.mean() + 1


def test_carried_frames_of_a_clip_that_is_through_are_not_held(make, monkeypatch):
    stages, offloaded = make(EXACT["one at a time"]).infer.stages, []
    monkeypatch.setattr(ClipMemory, "offload", lambda memory: offloaded.append(id(memory)))
    memory = stages.new_memory()
    stages.begin("encode", memory)
    stages.begin("sample")
    assert offloaded.pop() == id(memory)
    stages.begin("encode", memory)
    del memory
    stages.begin("sample")
    assert not offloaded


@pytest.mark.parametrize(("frames", "carries"), [(1, False), (3, True)])
def test_a_picture_carries_nothing_for_a_next_slice(make, frames, carries):
    """Every picture of a folder held the frames of a next slice that never came: 14.4 GiB where 9.7 were predicted."""
    restorer = build(SEEDVR2_TINY, Request(res=RES), make().parallel)
    restorer.apply_plan(NoiseClip(frames, 16, 32).info)
    memory, vae = restorer.infer.new_memory(), restorer.infer.vae
    restorer.infer.encode_slice(torch.zeros(3, 1, *RES), memory, None)
    assert any(memory.holds(module) for module in vae.modules()) == carries


def test_what_was_placed_for_good_is_not_moved_by_a_later_plan(make):
    with pytest.raises(ValueError, match="without a plan"):
        make().infer.stages.apply_plan(EXACT["one at a time"])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", 3)
    return tmp_path


@pytest.fixture
def on_a_gpu(monkeypatch) -> None:
    """The command line plans as it would on a GPU."""
    monkeypatch.setattr(
        run_files, "read_budget", lambda settings, parallel: make_budget(settings, parallel, settings.request.vram)
    )


def test_on_a_cpu_the_flag_says_that_it_has_no_effect(folder, capfd):
    assert run(folder, "--vram", "0.001") == 0
    assert "has no effect" in capfd.readouterr().err and (folder / "out" / "a.mp4").is_file()


def test_the_flag_reaches_the_plan(folder, capfd, on_a_gpu):
    assert run(folder, "--vram", "0.75") == 0
    assert "predicted peak 0." in capfd.readouterr().err and (folder / "out" / "a.mp4").is_file()


def test_a_bound_that_cannot_be_kept_is_refused_before_weights_are_loaded(folder, capfd, on_a_gpu, monkeypatch):
    monkeypatch.setattr(cli, "load", lambda *_: pytest.fail("weights were loaded"))
    assert run(folder, "--vram", "0.2") == 1
    said = capfd.readouterr().err
    assert "a.mp4: 3 frames of 48x40 do not fit into 0.2 GiB: the smallest plan needs" in said
    assert not list((folder / "out").iterdir())


def test_a_bound_without_meaning_is_refused(folder, capfd):
    assert run(folder, "--vram", "-1") == 2 and "--vram -1 must be" in capfd.readouterr().err


def test_eight_bits_from_the_command_line(folder):
    assert run(folder, "--weights_8_bit") == 0 and (folder / "out" / "a.mp4").stat().st_size
