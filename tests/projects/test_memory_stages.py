"""However a plan places networks and cuts their work, the pipeline gives what it gives without one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from projects.video_diffusion_sr.memory_budget import Budget, Clip, make_budget
from projects.video_diffusion_sr.memory_plan import MemoryPlan, plan
from projects.video_diffusion_sr.memory_prediction import GIB

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from models.video_vae_v3.modules.temporal_memory import TemporalMemory
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.build import Request, build
from projects.video_diffusion_sr.presets import SEEDVR2_3B, SEEDVR2_TINY
from projects.video_diffusion_sr.restore import Restorer
from tests.projects.test_restore import SMALL, frames_before_the_codec, run, write_clip

RES, FRAMES, WINDOW = (48, 96), 8, 7  # windows of four latent frames: encoder, transformer and decoder take turns
BYTES = 48 * 96 * 16 * 4  # a frame at the tiny VAE's widest level

EXACT = {
    "one at a time": MemoryPlan(offload="models", park=True),
    "blocks": MemoryPlan(offload="blocks", token_chunk=50, park=True),
    "cut": MemoryPlan(vae_frames=1, conv_max_mem=3 * BYTES / GIB, token_chunk=50),
    "one tile": MemoryPlan(tile=24, slice_frames=4, offload="models"),
}


@pytest.fixture(scope="module")
def make() -> Callable[..., Restorer]:
    def of(*ways: MemoryPlan) -> Restorer:
        return build(SEEDVR2_TINY, Request(res=RES, window_frames=WINDOW), parallel, ways)

    with process_group("cpu") as process:
        parallel = Parallel(process)
        yield of


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, (16, 32))


def result(restorer: Restorer, clip: Path) -> torch.Tensor:
    return frames_before_the_codec(
        replace(restorer, split_size=restorer.infer.stages.way.slice_frames or 2), clip
    ).int()


@pytest.fixture(scope="module")
def expected(make, clip) -> torch.Tensor:
    return result(make(), clip)


@pytest.mark.parametrize("way", EXACT.values(), ids=EXACT)
def test_exact_plans_change_nothing(make, clip, expected, way):
    restored = result(make(way), clip)
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
    restorer = make(MemoryPlan(), EXACT["one at a time"], EXACT["one tile"])
    for way in (EXACT["one tile"], MemoryPlan(), MemoryPlan(offload="models", prefetch=True)):
        restorer.infer.stages.follow(way)
        assert (result(restorer, clip) - expected).abs().max() <= 1
        assert restorer.infer.stages.waiting_room == torch.device("cpu") == restorer.device


def test_eight_bits_change_little_and_do_not_wear_out(make, clip, expected):
    restorer = make(MemoryPlan(storage_8_bit=True, offload="blocks"))
    away = [(result(restorer, clip) - expected).abs().float() for _ in range(2)]
    assert 0 < away[0].mean() < 1.5
    assert torch.equal(*away), "casting to and fro must not wear the weights out"


def test_tiles_come_close_and_leave_no_seam(make, clip, expected):
    restored = result(make(MemoryPlan(tile=18, slice_frames=4, offload="models")), clip)
    away = (restored - expected).abs().float().mean((0, 1, 2))  # by column of the picture
    assert 0 < away.mean() < 2
    assert away.max() < 4 * away.mean() + 1


def test_carried_frames_of_a_clip_that_is_through_are_not_held(make, monkeypatch):
    stages, parked = make(EXACT["one at a time"]).infer.stages, []
    monkeypatch.setattr(TemporalMemory, "park", lambda memory: parked.append(id(memory)))
    memory = stages.new_memory()
    stages.begin("encode", memory)
    stages.begin("sample")
    assert parked.pop() == id(memory)
    stages.begin("encode", memory)
    del memory
    stages.begin("sample")
    assert not parked


def test_what_was_placed_for_good_is_not_moved_by_a_later_plan(make):
    with pytest.raises(ValueError, match="without a plan"):
        make().infer.stages.follow(MemoryPlan(offload="models"))


@pytest.fixture(scope="module")
def budget() -> Callable[[float], Budget]:
    with process_group("cpu") as process:
        request = Request(res=(720, 1280), vram=1.0, dtype="bfloat16")
        whole = make_budget(SEEDVR2_3B, request, Parallel(process), 1.0)
        yield lambda gib: replace(whole, gib=gib)


def test_a_budget_plans_windows_at_the_size_of_the_result(budget):
    work = budget(24).work(Clip(270, 480, 1000))
    assert (work.frames, work.height, work.width, work.long) == (121, 720, 1280, True)
    assert not budget(24).work(Clip(270, 480, 97)).long
    assert budget(24).work(Clip(270, 480, None)).frames == 121
    with pytest.raises(ValueError, match="--window"):
        replace(budget(24), window=None).work(Clip(270, 480, None))


def test_a_folder_is_planned_file_by_file_but_for_what_cannot_be_undone(budget):
    clips = {Path("a.mp4"): Clip(270, 480, 9), Path("b.png"): Clip(270, 480, 1), Path("c.mp4"): Clip(270, 480, 500)}
    ways, refused = budget(12).plan_all(clips)
    assert not refused and all(way.predicted_peak_gib <= 12 for way in ways.values())
    assert {way.offload for way in ways.values()} in ({"blocks"}, {"none", "models"}, {"models"}, {"none"})
    none, refused = budget(1).plan_all(clips)
    assert not none and all("smallest way needs" in sentence for sentence in refused.values())
    ways, _ = replace(budget(1), firm=False).plan_all(clips)
    assert len(ways) == 3, "without a bound of the user's nothing is refused"


def test_what_a_refusal_asks_for_is_enough(budget):
    work = budget(1).work(Clip(270, 480, 97))
    with pytest.raises(ValueError, match="smallest way needs") as refusal:
        plan(1.0, work)
    asked = float(str(refusal.value).split("needs ")[1].split(" GiB")[0])
    assert plan(asked, work).predicted_peak_gib <= asked


def test_ranks_that_share_a_clip_take_shorter_slices_before_they_cut_them(budget):
    work = replace(budget(40).work(Clip(270, 480, 500)), ranks=4, slice_frames=16)
    roomy, tight = (plan(gib, work) for gib in (80, 36))
    assert roomy.slice_frames is None and roomy.predicted_peak_gib > tight.predicted_peak_gib
    assert tight.slice_frames == 8 and tight.vae_frames is None and tight.tile is None


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4", 3)
    return tmp_path


@pytest.fixture
def on_a_gpu(monkeypatch) -> None:
    """The command line plans as it would on a GPU."""
    monkeypatch.setattr(cli, "read_budget", lambda *asked: make_budget(*asked, asked[1].vram))


def test_on_a_cpu_the_flag_says_that_it_has_no_effect(folder, capfd):
    assert run(folder, "--vram", "0.001") == 0
    assert "has no effect" in capfd.readouterr().err and (folder / "out" / "a.mp4").is_file()


def test_the_flag_reaches_the_plan(folder, capfd, on_a_gpu):
    assert run(folder, "--vram", "0.65") == 0
    assert "predicted peak 0." in capfd.readouterr().err and (folder / "out" / "a.mp4").is_file()


def test_a_bound_that_cannot_be_kept_is_refused_before_weights_are_loaded(folder, capfd, on_a_gpu, monkeypatch):
    monkeypatch.setattr(cli, "build", lambda *_: pytest.fail("weights were loaded"))
    assert run(folder, "--vram", "0.2") == 1
    said = capfd.readouterr().err
    assert "a.mp4: 3 frames of 48x40 do not fit into 0.2 GiB: the smallest way needs" in said
    assert not list((folder / "out").iterdir())


def test_a_bound_without_meaning_is_refused(folder, capfd):
    assert run(folder, "--vram", "-1") == 2 and "--vram -1 must be" in capfd.readouterr().err


def test_eight_bits_from_the_command_line(folder):
    assert SMALL and run(folder, "--weights_8_bit") == 0
