"""Laws of the stages on latents: each loss against a plain re-derivation, sample by sample and without packing."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from common.checkpoint import save_safetensors
from common.diffusion import resolution_shift, uniform_trailing
from common.diffusion.adversarial import penalty_share
from data.training.latent_shards import ShardDataset, ShardWriter
from models.nadit.discriminator import Discriminator, DiscriminatorOutput
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.training.adversarial import (
    AdversarialSettings,
    AdversarialStage,
    DiscriminatorStart,
    LossWeights,
)
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage, two_step_velocity
from projects.video_diffusion_sr.training.packed import ShapeCache, Shapes, pack, unpack
from projects.video_diffusion_sr.training.placement import place_networks
from projects.video_diffusion_sr.training.sources import ResidentLatents
from tests.conftest import seed_weights
from tests.projects.training.tiny import make_recipe, moments

SIZES = [(1, 4, 6), (3, 4, 4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipe")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(width: int = 24) -> TrainingPrompts:
    return TrainingPrompts(torch.randn(3, width, generator=draws(1)), torch.randn(5, width, generator=draws(2)))


def ready(stage, seed: int = 0):
    """Seeded networks, a prepared batch."""
    for module in [*stage.modules.values(), *stage.frozen.values()]:
        seed_weights(module)
    with torch.no_grad():
        return stage.prepare(moments(SIZES), draws(seed))


def alone(stage, dit, prepared, x, t, i):
    """The transformer's answer for sample i without its neighbours."""
    counts = prepared.shapes.counts
    rows = torch.cat([x, prepared.given], 1).split(counts)[i]
    text = prepared.texts.tokens.split(prepared.texts.lengths)[i]
    return dit(rows, text, [prepared.shapes.sizes[i]], [[len(text)]], t[i]).vid_sample


def test_packing_and_back():
    latents = [torch.randn(16, *size) for size in SIZES]
    rows, sizes = pack(latents)
    assert all(torch.equal(a, b) for a, b in zip(latents, unpack(rows, sizes), strict=True))
    shapes = Shapes.of(sizes, "cpu")
    by_hand = torch.stack([x.mean() for x in latents])
    torch.testing.assert_close(shapes.sample_means(rows), by_hand)
    torch.testing.assert_close(shapes.mean(rows), by_hand.mean())
    assert shapes.per_row(torch.tensor([1.0, 2.0])).tolist() == [1.0] * 24 + [2.0] * 48
    assert shapes.frame_of_row[24:].bincount().tolist() == [16, 16, 16]


def test_stored_moments_are_drawn_and_scaled(folder):
    encoder = make_recipe(folder, "vae.scaling_factor=0.5").encoder(None)
    samples = moments(SIZES)
    pairs = encoder(samples, ShapeCache("cpu"), draws(3))
    mean, logvar = (pack([s[name] for s in samples])[0] for name in ("hq_mean", "hq_logvar"))
    noise = torch.randn(mean.shape, generator=draws(3))
    torch.testing.assert_close(pairs.hq, 0.5 * (mean + (logvar / 2).exp() * noise))
    encoder.use_sample = False
    torch.testing.assert_close(encoder(samples, ShapeCache("cpu"), draws(3)).hq, 0.5 * mean)


@torch.no_grad()
def test_pixels_encode_to_what_the_vae_says_grouped_or_not(folder):
    recipe = make_recipe(folder, "vae.use_sample=False")
    vae = recipe.build_trained_vae()
    clips = [torch.rand(3, *size) * 2 - 1 for size in [(3, 8, 16), (1, 16, 8), (3, 8, 16)]]
    samples = [{"hq": clip, "lq": -clip, "identity": str(i)} for i, clip in enumerate(clips)]
    for grouping in (False, True):
        encoder = recipe.encoder(vae)
        encoder.grouping = grouping
        pairs = encoder(samples, ShapeCache("cpu"), draws())
        expected = pack([vae.encode(sign * clip[None]).latent[0] for sign in (1, -1) for clip in clips])[0]
        torch.testing.assert_close(torch.cat([pairs.hq, pairs.lq]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("floor", [None, 0.25])
def test_diffusion_loss_is_the_mean_over_clips_of_their_own_velocity_error(folder, floor):
    """Of the error itself, or of its logarithm above a floor."""
    settings = DiffusionStageSettings(prompt_dropout=0.5, log_floor=floor)
    stage = DiffusionStage(make_recipe(folder), settings, prompts(), None)
    prepared = ready(stage)
    loss = stage.losses("dit", prepared, draws(7))["total"]
    again = draws(7)
    t = torch.randn(2, generator=again).sigmoid() * 1000
    t = resolution_shift(t, SIZES, temporal_factor=2, spatial_factor=4)  # of `tiny.MODEL`
    noise = torch.randn(prepared.hq.shape, generator=again)
    errors = []
    for i, (x0, eps) in enumerate(zip(*(x.split(prepared.shapes.counts) for x in (prepared.hq, noise)), strict=True)):
        u = t[i] / 1000
        x_t = torch.zeros_like(prepared.hq)
        x_t[prepared.shapes.sample_of_row == i] = (1 - u) * x0 + u * eps
        v = alone(stage, stage.modules["dit"], prepared, x_t, t, i)
        errors.append((v - (eps - x0)).square().mean())
    errors = torch.stack(errors)
    wanted = errors.mean() if floor is None else (errors + floor).log().mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


def test_condition_noise_is_a_forward_process_up_to_the_noise_scale(folder):
    conditioner = make_recipe(folder, "diffusion.timesteps.transform=False").conditioner(0.25)
    shapes = Shapes.of([(1, 8, 8)] * 400, "cpu")
    lq = torch.full((400 * 64, 16), 3.0)
    given = conditioner(torch.zeros_like(lq), lq, shapes, draws())
    assert (given[:, 16] == 1).all()
    level = 1 - shapes.sample_means(given[:, :16]) / 3  # u of (1 - u) lq + u noise
    spread = given[:, :16].unflatten(0, (400, 64)).flatten(1).std(1)
    torch.testing.assert_close(spread, level, rtol=0.2, atol=0.02)
    assert level.min() > -0.01 and level.max() < 0.26 and abs(level.mean().item() - 0.125) < 0.01
    assert torch.equal(make_recipe(folder).conditioner(0.0)(lq, lq, shapes, draws())[:, :16], lq)


def test_other_tasks_are_given_clean_first_frames_by_their_chance(folder):
    chances = ["condition.sr=0.4", "condition.i2v=0.3", "condition.v2v=0.2", "condition.noise_scale=0.0"]
    conditioner = make_recipe(folder, *chances).conditioner()
    shapes = Shapes.of([(3, 2, 2)] * 3000, "cpu")
    hq, lq = torch.full((3000 * 12, 16), 2.0), torch.full((3000 * 12, 16), 5.0)
    given = conditioner(hq, lq, shapes, draws()).unflatten(0, (3000, 3, 4))
    mask = given[..., 16].mean(2)  # samples frames
    kinds = {(1, 1, 1): 5.0, (1, 0, 0): 2.0, (1, 1, 0): 2.0, (0, 0, 0): 0.0}
    for (kind, value), chance in zip(kinds.items(), (0.4, 0.3, 0.2, 0.1), strict=True):
        chosen = (mask == torch.tensor(kind)).all(1)
        assert chosen.float().mean().item() == pytest.approx(chance, abs=0.04)
        expected = value * torch.tensor(kind, dtype=torch.float)[None, :, None, None].expand(
            int(chosen.sum()), 3, 4, 16
        )
        assert torch.equal(given[chosen][..., :16], expected)


def test_prompts_are_dropped_at_their_rate_and_by_the_seed_alone():
    """For the null text, which is neither of the two that were given."""
    none = [None] * 2000
    texts = prompts().drawn(none, 0.3, draws(5))
    assert texts.lengths.count(1) / 2000 == pytest.approx(0.3, abs=0.04) and set(texts.lengths) == {1, 3}
    assert prompts().drawn(none, 0.3, draws(5)).lengths == texts.lengths
    assert set(prompts().drawn(none[:50], 0.0, draws(5)).lengths) == {3}


def test_a_clip_reads_its_own_text_where_it_has_one(folder):
    stage = DiffusionStage(make_recipe(folder), DiffusionStageSettings(prompt_dropout=0.0), prompts(), None)
    samples, own = moments(SIZES), torch.randn(7, 24, generator=draws(8))
    samples[1]["text"] = own.half()
    texts = stage.prepare(samples, draws()).texts
    assert texts.lengths == (3, 7) and torch.equal(texts.tokens[3:], own.half().float())
    assert torch.equal(texts.tokens[:3], prompts().positive)
    samples[0]["text"] = torch.randn(7, 25)
    with pytest.raises(ValueError, match="clip 0: its text embedding is 25 wide, the model reads 24"):
        stage.prepare(samples, draws())


def test_weights_that_are_fine_tuned_meet_no_dropped_prompts(folder):
    """Guidance is against the negative text then, and against the null text where it was trained."""
    recipe = make_recipe(folder)
    dit, _ = recipe.build_dit()
    save_safetensors(dit.state_dict(), folder / "released.safetensors")
    rates = [
        (stage.prompt_dropout, stage.unguided(2).lengths)
        for settings, weights in ((None, folder / "released.safetensors"), (None, None), (0.3, None), (0.0, None))
        for stage in [DiffusionStage(recipe, DiffusionStageSettings(prompt_dropout=settings), prompts(), weights)]
    ]
    assert rates == [(0.0, (5, 5)), (0.1, (1, 1)), (0.3, (1, 1)), (0.0, (5, 5))]


def test_two_euler_steps_of_the_teacher_are_one_of_the_target(folder):
    """From any x_t, one step along the target lands where the teacher's two steps land; a constant v is kept."""
    schedule, shapes = make_recipe(folder).diffusion.schedule, Shapes.of(SIZES, "cpu")
    t, middle, end = torch.tensor([1000.0, 600.0]), torch.tensor([750.0, 500.0]), torch.tensor([500.0, 0.0])
    x = torch.randn(72, 16, dtype=torch.float64)

    def teacher(x, at):
        return x.sin() + shapes.per_row(at)[:, None].double() / 1000

    v = two_step_velocity(teacher, x, t, middle, end, schedule, shapes)
    for i, rows in enumerate(torch.arange(72).split(shapes.counts)):
        a, m, b = (z[i].double() / 1000 for z in (t, middle, end))
        by_hand = x[rows] - (a - m) * (x[rows].sin() + a)
        by_hand = by_hand - (m - b) * (by_hand.sin() + m)
        torch.testing.assert_close(x[rows] - (a - b) * v[rows], by_hand, rtol=1e-6, atol=1e-6)
    constant = two_step_velocity(lambda x, at: torch.ones_like(x), x, t, middle, end, schedule, shapes)
    torch.testing.assert_close(constant, torch.ones_like(x), rtol=1e-5, atol=1e-5)


def test_a_student_that_knows_the_answer_has_no_loss_and_times_fit_the_samplers(folder):
    recipe = make_recipe(folder)
    stage = DistillStage(recipe, DistillSettings(guidance=1.0), prompts(), None, DistillRound(2, guided=True))
    assert stage.times.tolist() == [1000.0, 750.0, 500.0, 250.0, 0.0]
    diffusion = recipe.diffusion
    visited = uniform_trailing(2, diffusion.schedule.T, diffusion.shift)  # the times of a sampler with two steps
    assert stage.times[:-1:2].tolist() == visited.tolist()
    prepared = ready(stage)
    for module in (stage.modules["dit"], stage.frozen["teacher"]):  # both say the same constant, whatever they see
        torch.nn.init.zeros_(module.vid_out.proj.weight)
        torch.nn.init.constant_(module.vid_out.proj.bias, 0.3)
    assert stage.losses("dit", prepared, draws())["total"] < 1e-8
    torch.nn.init.constant_(stage.frozen["teacher"].vid_out.proj.bias, 0.5)
    assert stage.losses("dit", prepared, draws())["total"].item() == pytest.approx(0.04, rel=1e-3)


def test_guidance_is_the_first_rounds_alone_and_rounds_must_halve(folder):
    recipe = make_recipe(folder)  # its YAML guides by 1.5
    settings = DistillSettings(rounds=(2, 1))
    first = DistillStage(recipe, settings, prompts(), None, DistillRound(2, guided=True))
    second = DistillStage(recipe, settings, prompts(), None, DistillRound(1, guided=False))
    assert (first.guidance.scale, second.guidance.scale) == (1.5, 1.0)
    with pytest.raises(ValueError, match="must halve"):
        DistillSettings(rounds=(8, 2))


def test_a_student_can_have_a_teacher_of_another_size(folder):
    """Its own weights at the start, the teacher's answers; texts and latents must be the same."""
    recipe, larger = make_recipe(folder), make_recipe(folder, "dit.model.num_layers=6")
    save_safetensors(larger.build_dit()[0].state_dict(), folder / "teacher.safetensors")
    teacher = (larger, folder / "teacher.safetensors")
    settings = DistillSettings(guidance=3.0, guidance_against="null_text")
    stage = DistillStage(recipe, settings, prompts(), None, DistillRound(2, guided=True), teacher=teacher)
    assert len(stage.modules["dit"].blocks) == 4 and len(stage.frozen["teacher"].blocks) == 6
    assert stage.weights.keys() == {"teacher"} and stage.unguided(1).lengths == (1,)
    prepared = stage.prepare(moments(SIZES), draws())
    once = [transformer_flops(net.config, SIZES, [3, 3]) for net in (stage.modules["dit"], stage.frozen["teacher"])]
    assert stage.work(prepared).flops == pytest.approx(3 * once[0] + 4 * once[1])
    other = make_recipe(folder, "dit.model.txt_in_dim=32")
    with pytest.raises(ValueError, match=r"the teacher's dit\.model\.txt_in_dim is 32"):
        DistillStage(recipe, settings, prompts(), None, DistillRound(2, guided=True), teacher=(other, None))


def test_a_teacher_is_kept_in_16_bits_where_the_run_computes_in_them(folder):
    for bf16 in (False, True):
        stage = DistillStage(make_recipe(folder), DistillSettings(), prompts(), None, DistillRound(2, guided=False))
        place_networks(stage, "NO_SHARD", torch.device("cpu"), bf16=bf16, compiled=False)
        kept = torch.bfloat16 if bf16 else torch.float32
        assert {p.dtype for p in stage.frozen["teacher"].parameters()} == {kept}
        assert {p.dtype for p in stage.modules["dit"].parameters()} == {torch.float32}
        tables = dict(stage.frozen["teacher"].named_buffers())
        assert tables and all(table.dtype == torch.float32 for table in tables.values())


def adversarial(folder, together: bool = True, **settings) -> AdversarialStage:
    settings = AdversarialSettings(together=together, **settings)
    return AdversarialStage(make_recipe(folder), settings, prompts(), None, DiscriminatorStart())


class Recorder(Discriminator):
    """Stands in for a discriminator: keeps what it is shown, and says the mean of each sample."""

    def __init__(self, backbone) -> None:
        torch.nn.Module.__init__(self)  # no heads
        self.backbone, self.shown = backbone, None

    def forward(self, vid, txt, sizes, lengths, t, *, layout):
        self.shown = vid
        parts = vid[:, :16].split([h * w * f for f, h, w in sizes])
        return DiscriminatorOutput(torch.stack([part.mean() for part in parts]), ())


def test_penalties_have_the_noise_of_their_kind_and_count_by_size(folder):
    """One image, one clip: sigma 0.01 and 0.1, and a share by the number of latent values, at most all."""
    stage = adversarial(folder, penalty_values=1000.0)
    prepared = ready(stage)
    stage.modules["discriminator"] = Recorder(stage.modules["dit"])
    losses = stage.losses("discriminator", prepared, draws(6))
    real, fake, near_real, near_fake = stage.modules["discriminator"].shown[:, :16].chunk(4)
    for clean, near in ((real, near_real), (fake, near_fake)):
        image, clip = (near - clean).split(prepared.shapes.counts)
        assert image.std().item() == pytest.approx(0.01, rel=0.15) and clip.std().item() == pytest.approx(0.1, rel=0.1)
    moved = torch.stack([(a - b).mean() for a, b in zip(real.split([24, 48]), near_real.split([24, 48]), strict=True)])
    expected = (torch.tensor([24 * 16 / 1000, 48 * 16 / 1000]) * moved.square()).mean()
    torch.testing.assert_close(losses["r1"], expected)
    assert penalty_share(torch.tensor([500, 4000]), 1000.0).tolist() == [0.5, 1.0]
    assert penalty_share(torch.tensor([500]), None) == 1.0


def test_without_a_penalty_its_versions_are_not_judged(folder):
    stage = adversarial(folder, weights=LossWeights(r1=100.0, r2=0.0), loss="ns")
    prepared = ready(stage)
    stage.modules["discriminator"] = Recorder(stage.modules["dit"])
    losses = stage.losses("discriminator", prepared, draws(6))
    assert len(stage.modules["discriminator"].shown) == 3 * len(prepared.hq) and "r2" not in losses
    real, fake = (
        torch.stack([p.mean() for p in x[:, :16].split([24, 48])])
        for x in stage.modules["discriminator"].shown.chunk(3)[:2]
    )
    expected = F.softplus(-real).mean() + F.softplus(fake).mean()
    torch.testing.assert_close(losses["gan"], expected)
    torch.testing.assert_close(losses["total"], expected + 100 * losses["r1"])


def test_the_generators_non_saturating_loss(folder):
    stage = adversarial(folder, loss="ns")
    prepared = ready(stage)
    losses = stage.losses("generator", prepared, draws(6))
    logits = stage._discriminate([stage.generate(prepared, draws(6))], prepared, times_after(stage, prepared))[0]
    torch.testing.assert_close(losses["gan"], F.softplus(-logits).mean(), rtol=1e-4, atol=1e-5)


def times_after(stage, prepared):
    """The discriminator's times of a generator's turn, which are drawn after its noise."""
    again = draws(6)
    torch.randn(prepared.hq.shape, generator=again)
    return stage._times(prepared, again)


def test_the_discriminator_starts_where_it_is_told_and_may_be_larger(folder):
    recipe, larger = make_recipe(folder), make_recipe(folder, "dit.model.num_layers=6")
    paths = {name: folder / f"{name}.safetensors" for name in ("diffusion", "distilled", "large")}
    for name, path in paths.items():
        save_safetensors((larger if name == "large" else recipe).build_dit()[0].state_dict(), path)

    def start(kind: str, discriminator=None, weights=paths["diffusion"]):
        settings = AdversarialSettings(discriminator_init=kind)
        stage = AdversarialStage(
            recipe, settings, prompts(), paths["distilled"], DiscriminatorStart(weights, discriminator)
        )
        state = stage.weights.get("discriminator") or stage.modules["discriminator"].state_dict()
        return stage, state["backbone.vid_in.proj.weight"]

    for kind in ("diffusion", "distilled"):
        assert torch.equal(start(kind)[1], load_file(paths[kind])["vid_in.proj.weight"])
    random = start("random", weights=None)[1]
    assert not any(torch.equal(random, load_file(path)["vid_in.proj.weight"]) for path in paths.values())
    stage, weight = start("diffusion", larger, paths["large"])
    assert torch.equal(weight, load_file(paths["large"])["vid_in.proj.weight"])
    assert len(stage.modules["discriminator"].backbone.blocks) == 6
    prepared = ready(place(stage))
    assert torch.isfinite(stage.losses("generator", prepared, draws(1))["features"])


def place(stage):
    """Networks that were built on the meta device get their weights."""
    place_networks(stage, "NO_SHARD", torch.device("cpu"), bf16=False, compiled=False)
    return stage


def test_the_generator_is_one_step_from_noise(folder):
    stage = adversarial(folder)
    prepared = ready(stage)
    fake = stage.generate(prepared, draws(4))
    noise = torch.randn(prepared.hq.shape, generator=draws(4))
    T = torch.tensor([1000.0, 1000.0])
    for i, (x, eps) in enumerate(zip(*(z.split(prepared.shapes.counts) for z in (fake, noise)), strict=True)):
        torch.testing.assert_close(x, eps - alone(stage, stage.modules["dit"], prepared, noise, T, i))


def test_one_packed_pass_of_the_discriminator_equals_four(folder):
    one, four = adversarial(folder), adversarial(folder, together=False)
    prepared = ready(one), ready(four)
    a, b = (stage.losses("discriminator", p, draws(6)) for stage, p in zip((one, four), prepared, strict=True))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    total = a["gan"] + 1000 * (a["r1"] + a["r2"])
    torch.testing.assert_close(a["total"], total)


def test_the_generators_loss_is_the_weighted_sum_and_the_judge_only_passes_gradients_on(folder):
    stage = adversarial(folder)
    prepared = ready(stage)
    stage.modules["discriminator"].requires_grad_(False)
    losses = stage.losses("generator", prepared, draws(6))
    torch.testing.assert_close(losses["total"], losses["gan"] + 0.1 * losses["l1"] + 0.1 * losses["features"])
    fake = stage.generate(prepared, draws(6))
    torch.testing.assert_close(losses["l1"], prepared.shapes.sample_means((fake - prepared.hq).abs()).mean())
    losses["gan"].backward()
    assert stage.modules["dit"].blocks[0].mlp.vid.proj_in.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in stage.modules["discriminator"].parameters())


def test_resident_latents_are_those_of_the_shards(tmp_path):
    samples = moments([(1, 4, 6), (1, 4, 6), (3, 4, 4), (1, 4, 6), (3, 4, 4)])
    with ShardWriter(tmp_path, 2) as writer:
        for sample in samples:
            writer.add(
                {k: v for k, v in sample.items() if k != "identity"}, sample["identity"], sample["hq_mean"][0].numel()
            )
    resident = ResidentLatents(tmp_path, 150, 3, 0, 1, "cpu")
    stored = ShardDataset(tmp_path, 150, 3)
    for number in range(6):
        packed, listed = resident.batch(number), stored[number]
        of = {
            name.split(" batch=")[0]: rows
            for name, rows in zip(packed.names, unpack(packed.lq_mean, packed.sizes), strict=True)
        }
        expected = {s["identity"].split(" seed=")[0]: s["lq_mean"] for s in listed}
        assert of.keys() == expected.keys() and len(packed.names) == len(listed)
        assert all(torch.equal(of[name], expected[name]) for name in of)


def test_operations_are_those_that_are_counted_in_a_real_pass(folder):
    from torch.utils.flop_counter import FlopCounterMode

    dit, _ = make_recipe(folder).build_dit()
    vid, txt = torch.randn(72, 33), torch.randn(8, 24)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        dit(vid, txt, SIZES, [[3], [5]], torch.tensor([1.0, 2.0]))
    # The time embedding is a pass per sample, and the last block does not feed its text forward: both are left out.
    assert transformer_flops(dit.config, SIZES, [3, 5]) == pytest.approx(counter.get_total_flops(), rel=0.1)
