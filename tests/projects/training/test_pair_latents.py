"""Pairs that stay on the device: what is encoded, what a batch holds, and where the transformer starts."""

import numpy as np
import pytest
import torch

from common.config import load_config
from common.create import create_object
from data.training.make_pairs import Pairs
from data.training.model_range import to_model_range, upsample_to_model_range
from projects.video_diffusion_sr.training.tiny.pair_latents import ConditionMixing, PairLatents, SetPlan
from projects.video_diffusion_sr.training.tiny.residual_start import start_as_residual

SETS = ((1, 32, 48, 3), (3, 32, 48, 2), (3, 32, 32, 2))  # frames, height, width, pairs
ALL = SetPlan(first=3, every=1, last=3)


@pytest.fixture(scope="module")
def recipe():
    return load_config("configs_tiny/main.yaml")


@pytest.fixture(scope="module")
def vae(recipe):
    torch.manual_seed(0)
    return create_object(recipe.vae.model).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for number, (frames, height, width, count) in enumerate(SETS):
        hq = rng.integers(256, size=(count, frames, height, width, 3), dtype=np.uint8)
        lq = rng.integers(256, size=(count, frames, height // 4, width // 4, 3), dtype=np.uint8)
        Pairs(hq, lq, [f"{number}/{i}" for i in range(count)]).save(path / f"set_{number:03d}")
    return path


@pytest.fixture(scope="module")
def source(vae, folder):
    source = PairLatents(vae, folder, ALL, 200, 7)
    source.read(range(3))
    return source


def test_every_pair_is_there_and_square_ones_transposed_as_well(source, vae, folder):
    """Both latents of a pair are those of its pixels; the transposed copy is encoded, not turned as a latent."""
    assert {size: len(names) for size, names in source.names.items()} == {(1, 8, 12): 3, (2, 8, 12): 2, (2, 8, 8): 4}
    from data.training.latent_shards import ShardReader

    for name, size in (("set_001", (2, 8, 12)), ("set_002", (2, 8, 8))):
        pairs = ShardReader(folder / name).read_shard(0)
        height, width = pairs["hq"].shape[2:4]
        both = [(x, x.transpose(2, 3))[: 1 + (height == width)] for x in (pairs["hq"], pairs["lq"])]
        hq, lq = (torch.cat(parts) for parts in both)
        with torch.no_grad():
            wanted = [vae.encode(x).latent for x in (to_model_range(hq), upsample_to_model_range(lq, height, width))]
        for kept, latent in zip(source.latents[size][0], wanted, strict=True):
            close = {"atol": 2e-3, "rtol": 2e-3}  # half precision; batches of another size round otherwise
            torch.testing.assert_close(kept, latent.permute(0, 2, 3, 4, 1).flatten(1, 3).half(), **close)


def test_sets_are_read_when_their_batch_comes(vae, folder):
    """One set from the start, one more after every three batches; a source that starts later knows as many."""
    plan = SetPlan(first=1, every=3, last=3)
    assert [plan.sets(n).stop for n in (0, 2, 3, 5, 6, 100)] == [1, 1, 2, 2, 3, 3]
    source, later = (PairLatents(vae, folder, plan, 200, 7) for _ in range(2))
    stream = source.batches(0)
    batches = [next(stream) for _ in range(30)]
    assert {batch.sizes[0] for batch in batches[:3]} == {(1, 8, 12)}
    assert {batch.sizes[0] for batch in batches[:6]} <= {(1, 8, 12), (2, 8, 12)}
    assert {batch.sizes[0] for batch in batches} == {(1, 8, 12), (2, 8, 12), (2, 8, 8)}
    again = later.batches(7)
    assert all(next(again).names == batch.names for batch in batches[7:12])


def test_older_sets_are_dropped(vae, folder):
    """With `kept`, batches come from the newest sets alone, and a source that starts later draws the same ones."""
    plan = SetPlan(first=1, every=3, last=3, kept=2)
    assert [plan.sets(n) for n in (0, 3, 6, 100)] == [range(1), range(2), range(1, 3), range(1, 3)]
    source, later = (PairLatents(vae, folder, plan, 200, 7) for _ in range(2))
    batches = [source.batch(n) for n in range(40)]
    assert {batch.sizes[0] for batch in batches[3:6]} <= {(1, 8, 12), (2, 8, 12)}
    assert {batch.sizes[0] for batch in batches[6:]} == {(2, 8, 12), (2, 8, 8)}
    assert {size: len(hq) for size, ((hq, _),) in source.latents.items()} == {(2, 8, 12): 2, (2, 8, 8): 4}
    later.read(plan.sets(0))
    for number in (6, 7, 20, 39):
        again = later.batch(number)
        assert again.names == batches[number].names and torch.equal(again.lq_mean, batches[number].lq_mean)


def test_a_size_may_lose_only_its_older_samples(vae, folder, tmp_path):
    """Two sets of one size: what is left is the newer one's."""
    for number, name in enumerate(("set_001", "set_002", "set_001")):
        (tmp_path / f"set_{number:03d}").symlink_to(folder / name)
    source = PairLatents(vae, tmp_path, SetPlan(first=1, every=1, last=3, kept=2), 200, 7)
    source.read(range(1))
    first = source.latents[2, 8, 12][0][0]
    for end in (2, 3):
        source.read(source.plan.sets(end - 1))
    assert source.origins == {(2, 8, 12): [2, 2], (2, 8, 8): [1] * 4}
    assert len(source.names[2, 8, 12]) == 2 and torch.equal(source.latents[2, 8, 12][0][0], first)


def test_a_batch_follows_from_its_number(source, vae, folder):
    again = PairLatents(vae, folder, ALL, 200, 7)
    for number in range(4):
        one, two = source.batch(number), again.batch(number)
        assert one.names == two.names and one.sizes == two.sizes
        assert torch.equal(one.hq_mean, two.hq_mean) and torch.equal(one.lq_mean, two.lq_mean)
        assert len(one.hq_mean) == sum(np.prod(size) for size in one.sizes) <= 200
    assert source.batch(0).names != source.batch(1).names


def test_mixed_conditions_lie_between_degraded_and_truth(vae, folder):
    """Clean samples are given their truth, mixed ones a point on the way, and the rest what was degraded."""
    kinds = (ConditionMixing(), ConditionMixing(clean=1.0), ConditionMixing(mixed=1.0))
    plain, clean, mixed = (PairLatents(vae, folder, ALL, 2000, 7, mixing) for mixing in kinds)
    a, b, c = plain.batch(0), clean.batch(0), mixed.batch(0)
    assert torch.equal(a.hq_mean, b.hq_mean) and torch.equal(a.hq_mean, c.hq_mean)
    assert torch.equal(b.lq_mean, b.hq_mean)
    assert not torch.equal(a.lq_mean, a.hq_mean)
    rows = [int(np.prod(size)) for size in c.sizes]
    shares = []
    for given, low, high in zip(*(x.float().split(rows) for x in (c.lq_mean, a.lq_mean, a.hq_mean)), strict=True):
        share = ((given - low) * (high - low)).sum() / (high - low).square().sum()
        torch.testing.assert_close(given, low.lerp(high, share), atol=4e-3, rtol=0)
        shares.append(share.item())
    assert 0 <= min(shares) < 0.4 and 0.6 < max(shares) <= 1


def test_shares_of_mixed_conditions():
    shares = ConditionMixing(mixed=0.3, clean=0.2).shares(20000, np.random.default_rng(0))
    assert abs((shares == 1).mean() - 0.2) < 0.02
    assert abs((shares == 0).mean() - 0.5) < 0.02
    with pytest.raises(ValueError, match="at most 1"):
        ConditionMixing(mixed=0.8, clean=0.3)


@torch.no_grad()
def test_the_start_is_noise_minus_condition(recipe):
    """One step from T then returns the condition, whatever the blocks add being taken away."""
    torch.manual_seed(0)
    dit = create_object(recipe.dit.model).eval()
    start_as_residual(dit, 16)
    for block in dit.blocks:  # silence what the blocks add
        for name, parameter in block.named_parameters():
            if name.endswith("_gate"):
                parameter.zero_()
    for parameter in dit.emb_in.parameters():
        parameter.zero_()
    noise, condition = torch.randn(2, 4, 8, 16), torch.randn(2, 4, 8, 16)
    given = torch.cat([noise, condition, torch.ones(2, 4, 8, 1)], -1).flatten(0, 2)
    out = dit(given, torch.randn(4, dit.config.txt_in_dim), [(2, 4, 8)], [[4]], 1000.0).vid_sample
    torch.testing.assert_close(noise.flatten(0, 2) - out, condition.flatten(0, 2), atol=1e-5, rtol=0)


def test_the_start_needs_a_transformer_without_a_tail(recipe):
    dit = create_object(load_config("configs_tiny/main.yaml", ["dit.model.vid_out_norm=fusedrms"]).dit.model)
    with pytest.raises(ValueError, match="vid_out_norm"):
        start_as_residual(dit, 16)
