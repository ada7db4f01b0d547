"""The diffusion package against recorded numbers, and its laws."""

import pytest
import torch

from common.diffusion import (
    EulerSampler,
    Guidance,
    LinearInterpolation,
    LogitNormal,
    classifier_free_guidance,
    condition_timestep,
    diffusion_loss,
    resolution_shift,
    uniform_trailing,
    velocity_target,
)
from tests.conftest import load_golden, seeded

SCHEDULE = LinearInterpolation(T=1000.0)
TIMES = torch.tensor([900.0, 500.0, 100.0, 10.0])
KINDS = ["x_0", "x_T", "v_cos", "v_lerp"]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    assert a.shape == b.shape
    return (a - b).abs().max().item() <= tolerance


def test_forward_and_conversions_meet_the_recorded_numbers():
    golden = load_golden("diffusion.safetensors")
    x, pred = seeded("open/conv/x", (4, 3)), seeded("open/conv/pred", (4, 3))
    assert close(SCHEDULE.forward(x, pred, TIMES), golden["forward"], 1e-6)
    for kind in KINDS:
        x_0, x_T = SCHEDULE.convert_from_pred(pred, kind, x, TIMES)
        assert close(x_0, golden[f"convert/{kind}/x_0"], 1e-6), kind
        assert close(x_T, golden[f"convert/{kind}/x_T"], 1e-6), kind


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize(("scale", "rescale"), [(1.0, 0.0), (6.5, 0.0), (6.5, 0.7)])
def test_euler_with_guidance_meets_the_recorded_numbers(steps, scale, rescale):
    golden = load_golden("diffusion.safetensors")[f"euler/{steps}/{scale}/{rescale}"]
    x_T, x_0 = seeded("open/sampler/x_T", (6, 5)), seeded("open/sampler/x0", (6, 5))
    guidance = Guidance(scale, rescale)

    def predict(x, t, i):
        return guidance.predict(lambda: x.sin() + t / 1000 - x_0, lambda: 0.5 * x.cos() - t / 2000, i, steps)

    out = EulerSampler(SCHEDULE, uniform_trailing(steps)).sample(x_T, predict)
    assert close(out, golden, 1e-6)


def test_timesteps_and_transforms_meet_the_recorded_numbers():
    golden = load_golden("diffusion.json")
    for key, wanted in golden.items():
        if key.startswith("timesteps/"):
            assert close(uniform_trailing(int(key.split("/")[1])), torch.tensor(wanted), 1e-4), key
        if key.startswith("transform/"):
            t = float(key.split("/")[1])
            assert close(resolution_shift(t, golden["transform_shapes"]), torch.tensor(wanted), 1e-4), key


def test_condition_timestep_has_the_quirk_of_the_released_multi_step_models():
    golden = load_golden("diffusion.json")
    shape = (3, 4, 6, 16)
    quirk = condition_timestep(0.1, shape, channels_read_as_width=True)
    assert abs(quirk.item() - golden["e2e/four_step_cfg/aug_timestep"][0]) <= 1e-4
    assert torch.equal(quirk, resolution_shift(100.0, [(4, 6, 16)])[0])
    assert torch.equal(
        condition_timestep(0.1, shape, channels_read_as_width=False), resolution_shift(100.0, [shape[:3]])[0]
    )
    for reading in (True, False):
        assert condition_timestep(0.0, shape, channels_read_as_width=reading).item() == 0.0


def test_the_shift_depends_on_pixels_not_on_the_compression():
    wanted = resolution_shift(300.0, [(7, 90, 160)])
    assert torch.equal(resolution_shift(300.0, [(13, 180, 320)], temporal_factor=2, spatial_factor=4), wanted)


@pytest.mark.parametrize("steps", [1, 3, 7, 49, 1000])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_uniform_trailing_starts_at_T_falls_and_never_reaches_zero(steps, shift):
    t = uniform_trailing(steps, T=1000.0, shift=shift)
    assert t.shape == (steps,) and t[0] == 1000 and t[-1] > 0 and bool((t.diff() < 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_undoes_the_target(kind):
    x_0, x_T = seeded("law/x0", (4, 2, 5)), seeded("law/xT", (4, 2, 5))
    target = SCHEDULE.convert_to_pred(x_0, x_T, TIMES, kind)
    back_0, back_T = SCHEDULE.convert_from_pred(target, kind, SCHEDULE.forward(x_0, x_T, TIMES), TIMES)
    if kind == "v_cos":  # not exact on a straight line: both ends come out times A^2 + B^2
        norm = (SCHEDULE.A(TIMES) ** 2 + SCHEDULE.B(TIMES) ** 2).view(-1, 1, 1)
        x_0, x_T = x_0 * norm, x_T * norm
    assert torch.allclose(back_0, x_0, atol=1e-4) and torch.allclose(back_T, x_T, atol=1e-4)


def test_conversions_that_would_divide_by_zero_are_refused():
    x = torch.ones(2, 3)
    for kind, t in [("x_T", 1000.0), ("x_T", torch.tensor([10.0, 1000.0])), ("x_0", 0.0)]:
        with pytest.raises(ZeroDivisionError, match="cannot be found"):
            SCHEDULE.convert_from_pred(x, kind, x, t)
    for kind in ("v_lerp", "v_cos"):
        for t in (0.0, 1000.0):
            assert SCHEDULE.convert_from_pred(x, kind, x, t)[0].isfinite().all()


def test_times_per_sample_equal_one_sample_at_a_time_and_half_precision_is_lifted():
    x_0, x_T = seeded("law/x0", (4, 2, 3, 5)), seeded("law/xT", (4, 2, 3, 5))
    together = SCHEDULE.forward(x_0, x_T, TIMES)
    for i in range(4):
        assert torch.equal(together[i], SCHEDULE.forward(x_0[i], x_T[i], TIMES[i]))
        assert torch.equal(together[i], SCHEDULE.forward(x_0[i], x_T[i], TIMES[i].item()))
    assert SCHEDULE.forward(x_0.bfloat16(), x_T.bfloat16(), 500.0).dtype == torch.float32
    with pytest.raises(ValueError, match="first dimension"):
        SCHEDULE.forward(x_0, x_T, TIMES[:3])


def test_an_exact_velocity_is_sampled_exactly_in_any_number_of_steps_with_one_call_each():
    x_0, x_T = seeded("law/x0", (3, 4)), seeded("law/xT", (3, 4))
    for steps in (1, 2, 9):
        indices, times = [], []

        def predict(x, t, i, indices=indices, times=times):
            indices.append(i)
            times.append(t.item())
            return x_T - x_0

        out = EulerSampler(SCHEDULE, uniform_trailing(steps)).sample(x_T, predict)
        assert close(out, x_0, 2e-6)
        assert indices == list(range(steps)) and times == uniform_trailing(steps).tolist()


@pytest.mark.parametrize(("partial", "guided"), [(1.0, 10), (0.5, 5), (0.0, 0), (0.09, 0), (0.1, 1)])
def test_the_negative_pass_runs_only_while_guidance_is_on(partial, guided):
    runs = []
    guidance = Guidance(3.0, 0.0, partial)
    for i in range(10):
        guidance.predict(lambda: torch.zeros(1), lambda: runs.append(i) or torch.zeros(1), i, 10)  # noqa: B023
    assert runs == list(range(guided))
    assert not Guidance(1.0).active(0, 10)


def test_rescaled_guidance_has_the_spread_of_the_positive_pass_sample_by_sample():
    pos, neg = seeded("law/pos", (3, 4, 50)), seeded("law/neg", (3, 4, 50))
    out = classifier_free_guidance(pos, neg, 6.5, 1.0)
    assert torch.allclose(out.std(dim=(1, 2)), pos.std(dim=(1, 2)), rtol=1e-5)
    alone = torch.stack([classifier_free_guidance(pos[i], neg[i], 6.5, 0.3, sample_dim=None) for i in range(3)])
    assert torch.allclose(classifier_free_guidance(pos, neg, 6.5, 0.3), alone, atol=1e-6)
    assert torch.equal(classifier_free_guidance(pos, neg, 1.0, 0.7), pos)


def test_training_times_are_logit_normal_and_repeat_with_their_generator():
    draw = LogitNormal().sample(20000, torch.Generator().manual_seed(1))
    assert draw.min() > 0 and draw.max() < 1000 and draw.dtype == torch.float32
    logit = (draw / 1000).logit()
    assert abs(logit.mean()) < 0.03 and abs(logit.std() - 1) < 0.03
    assert torch.equal(draw[:10], LogitNormal().sample(20000, torch.Generator().manual_seed(1))[:10])


def test_the_loss_is_zero_at_its_target_and_one_mean_a_sample():
    x_0, x_T = seeded("law/x0", (4, 2, 5)), seeded("law/xT", (4, 2, 5))
    target = velocity_target(x_0, x_T)
    assert torch.equal(diffusion_loss(target, x_0, x_T, TIMES, schedule=SCHEDULE), torch.zeros(4))
    off = target + torch.tensor([0.0, 1.0, 2.0, 3.0]).view(4, 1, 1)
    got = diffusion_loss(off, x_0, x_T, TIMES, schedule=SCHEDULE)
    assert torch.allclose(got, torch.tensor([0.0, 1.0, 4.0, 9.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: uniform_trailing(0), "at least one step"),
        (lambda: Guidance(1.0, 2.0), "rescale"),
        (lambda: EulerSampler(SCHEDULE, torch.tensor([1.0, 2.0])), "falling"),
        (lambda: SCHEDULE.convert_from_pred(torch.ones(1), "eps", torch.ones(1), 1.0), "x_0, x_T, v_cos, v_lerp"),
        (lambda: resolution_shift(1.0, [(1, 2)]), r"\(t, h, w\)"),
        (lambda: condition_timestep(2.0, (1, 2, 3, 4), channels_read_as_width=False), "share"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
