"""Which plans there are and which one is chosen, for budgets, files and ranks of every kind."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from models.video_vae_v3.modules.schedule import F23, F43
from projects.video_diffusion_sr.memory.budget import SAFETY, Budget, Clip, choose_plan, make_budget
from projects.video_diffusion_sr.memory.plan import candidates
from tests.projects.released import released, settings_of

CLIPS = [(97, 720, 1280), (5, 720, 1280), (1, 720, 1280), (21, 2160, 3840), (97, 256, 384), (121, 1088, 1920)]
BUDGETS = [200, 80, 48, 40, 32, 24, 18, 16, 14, 12, 10, 8, 7, 6, 5, 4, 3, 2]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_every_schedule_can_be_followed(clip, ranks):
    """A level of the network for every level, groups that a slice can bring, slices that end where latents end."""
    work = released()(*clip, ranks, long=True)
    for plan in candidates(work):
        schedule = plan.schedule
        assert len(schedule.levels) == len(work.vae.levels)
        assert schedule.slice_frames % work.vae.temporal_factor == 0
        assert schedule.single_frame == work.still
        for level, shape in zip(schedule.levels, work.vae.levels, strict=True):
            assert level.group is None or level.group * shape.time <= schedule.slice_frames
        assert schedule.tile is None or schedule.tile >= 32
        assert plan.offload_carried == (plan.offload != "none")
        assert plan.token_chunk or plan.offload != "blocks"


@pytest.mark.parametrize("clip", CLIPS)
def test_a_smaller_budget_never_takes_more(clip):
    work, before = released()(*clip), None
    for vram in BUDGETS:
        try:
            plan = choose_plan(vram, work)
        except ValueError:
            assert vram < 16, "what is refused is small"
            continue
        assert plan.predicted_peak_gib <= vram
        assert before is None or plan.predicted_peak_gib <= before
        before = plan.predicted_peak_gib
    plan = choose_plan(200, work)
    assert plan.offload == "none" and plan.schedule.tile is None and not plan.saves_memory


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_what_fits_one_gpu_fits_several(clip, ranks):
    """Two GPUs ran out of 79 GiB each on a clip that one restored in 17.8."""
    alone, shared = (released()(*clip, n) for n in (1, ranks))
    for vram in BUDGETS:
        try:
            choose_plan(vram, alone)
        except ValueError:
            continue
        assert choose_plan(vram, shared).predicted_peak_gib <= vram


def test_slices_are_as_long_as_their_groups_need():
    """At 4 frames a slice, the level whose pictures come half as often would have two at once."""
    assert choose_plan(200, released()(97, 720, 1280)).schedule.slice_frames == 8
    assert choose_plan(200, released()(97, 720, 1280, slice_frames=16)).schedule.slice_frames == 16
    for frames in (5, 1):
        assert choose_plan(200, released()(frames, 720, 1280)).schedule.slice_frames == 4


def test_4k_in_80_gib_needs_no_tiles_and_takes_the_smaller_groups():
    plan = choose_plan(80, released()(21, 2160, 3840))
    assert plan.schedule.tile is None and plan.schedule.winograds == {F23}
    assert choose_plan(80, released()(21, 2160, 3840, 2)).schedule.winograds == {F43}


def test_sharded_weights_stay_on_the_device():
    work = released("seedvr2_7b")(25, 720, 1280, 2, sharing=2)
    assert {plan.offload for plan in candidates(work)} == {"none"}
    whole = released("seedvr2_7b")(25, 720, 1280, 2)
    assert choose_plan(80, work).predicted_peak_gib < choose_plan(80, whole).predicted_peak_gib - 5


@pytest.mark.parametrize("clip", CLIPS)
def test_what_a_refusal_asks_for_is_enough(clip):
    work = released()(*clip)
    with pytest.raises(ValueError, match="smallest plan needs") as refusal:
        choose_plan(1.0, work)
    asked = float(str(refusal.value).split("needs ")[1].split(" GiB")[0])
    assert choose_plan(asked, work).predicted_peak_gib <= asked


@pytest.fixture(scope="module")
def budget():
    with process_group("cpu") as process:
        parallel = Parallel(process)
        whole = make_budget(settings_of("seedvr2_3b"), parallel, 1.0)
        yield lambda gib, **more: replace(whole, gib=gib, **more)


def test_a_budget_plans_windows_at_the_size_of_the_result(budget):
    work = budget(24).work(Clip(270, 480, 1000))
    assert (work.frames, work.height, work.width, work.long) == (121, 720, 1280, True)
    assert not budget(24).work(Clip(270, 480, 97)).long
    assert budget(24).work(Clip(270, 480, None)).frames == 121
    whole = budget(24, settings=replace(settings_of("seedvr2_3b"), window=None))
    with pytest.raises(ValueError, match="--window"):
        whole.work(Clip(270, 480, None))


def plans_of(budget: Budget, **clips: Clip):
    return budget.plan_all({Path(name): clip for name, clip in clips.items()})


def test_a_folder_is_planned_file_by_file_but_for_what_cannot_be_undone(budget):
    clips = {"a": Clip(270, 480, 9), "b": Clip(270, 480, 1, still=True), "c": Clip(270, 480, 500)}
    plans, refused = plans_of(budget(12), **clips)
    assert not refused and all(plan.predicted_peak_gib <= 12 for plan in plans.values())
    travelling = {plan.offload == "blocks" for plan in plans.values()}
    assert len(travelling) == 1
    none, refused = plans_of(budget(1), **clips)
    assert not none and all("smallest plan needs" in sentence for sentence in refused.values())
    plans, _ = plans_of(budget(1, is_hard_limit=False), **clips)
    assert len(plans) == 3, "without a bound of the user's nothing is refused"


def test_each_file_counts_the_weights_that_other_files_need(budget):
    """Winograd's weights stay on the device for all files of a run, also while a picture goes through."""
    alone, _ = plans_of(budget(40), still=Clip(270, 480, 1, still=True))
    beside, _ = plans_of(budget(40), still=Clip(270, 480, 1, still=True), clip=Clip(270, 480, 97))
    extra = beside[Path("still")].predicted_peak_gib - alone[Path("still")].predicted_peak_gib
    assert extra == pytest.approx(budget(1).networks.winograd_bytes[F43] / 2**30)


def test_pictures_are_replayed_where_there_are_many_of_a_size_and_it_fits(budget):
    """Recording pays from a few pictures on; what the graphs keep must be predicted, and be there."""
    roomy, still = budget(40), Clip(270, 480, 1, still=True)
    other = Clip(480, 270, 1, still=True)
    few = {name: still for name in "abcd"}
    many, _ = plans_of(roomy, **few, e=still, f=other, clip=Clip(270, 480, 97))
    assert {name for name, plan in many.items() if plan.replay} == set(map(Path, "abcde"))
    assert not any(plan.replay for plan in plans_of(roomy, **few)[0].values())
    once, again = plans_of(roomy, **few)[0][Path("a")], many[Path("a")]
    assert again.predicted_peak_gib > once.predicted_peak_gib
    both, _ = plans_of(roomy, **few, e=still, **dict.fromkeys("fghij", other))
    assert all(plan.replay for plan in both.values()), "graphs of two sizes are kept, and counted"
    assert both[Path("a")].predicted_peak_gib > again.predicted_peak_gib + 1
    tight = budget(once.predicted_peak_gib * SAFETY + 0.01)
    assert not any(plan.replay for plan in plans_of(tight, **few, e=still)[0].values())


@pytest.mark.parametrize("changed", [{"ranks": 2}, {"storage_8_bit": True}, {"height": 2160, "width": 3840}])
def test_what_is_not_replayed(changed):
    work = released()(1, 720, 1280)
    assert choose_plan(200, replace(work, repeated=1)).replay
    assert not choose_plan(200, replace(work, repeated=1, **changed)).replay
