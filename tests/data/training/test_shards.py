"""Shards give back what was written, in batches with the dataset's contract."""

import pickle

import pytest
import torch

from data.training.latent_shards import ShardDataset, ShardReader, ShardWriter, write_latents
from data.training.make_pairs import make_pairs
from data.training.sampling import ClipShape
from tests.data.training.conftest import recipe


@pytest.fixture
def shards(tmp_path):
    """Ten samples of two sizes, three a shard; sample i holds the number i."""
    with ShardWriter(tmp_path / "s", samples_per_shard=3) as writer:
        for i in range(10):
            t = 1 if i % 3 else 2
            writer.add({"z": torch.full((4, t, 2, 2), i, dtype=torch.bfloat16)}, f"sample {i}", size=t * 4)
    return tmp_path / "s"


def test_every_sample_comes_back(shards):
    reader = ShardReader(shards)
    assert len(reader) == 10
    seen = {}
    for number, shard in enumerate(reader.shards):
        stacked = reader.read_shard(number)["z"]
        for row in range(len(shard["identities"])):
            sample = reader.read(number, row)
            assert torch.equal(sample["z"], stacked[row]) and sample["z"].dtype == torch.bfloat16
            seen[sample["identity"]] = int(sample["z"].flatten()[0])
    assert seen == {f"sample {i}": i for i in range(10)}


def test_batches_keep_the_budget_and_the_dice(shards):
    ranks = [ShardDataset(shards, budget=24, seed=5, rank=r, world=2) for r in range(2)]
    ranks.append(pickle.loads(pickle.dumps(ranks[0])))
    for step in range(10):
        first, second, again = (data[step] for data in ranks)
        assert sum(s["z"][0].numel() for s in first) <= 24
        assert [s["z"].shape for s in first] == [s["z"].shape for s in second]
        assert [s["identity"] for s in first] == [s["identity"] for s in again]


def test_nothing_half_written_is_readable(tmp_path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "s") as writer:
        writer.add({"z": torch.zeros(1)}, "a", size=1)
        raise KeyError("stopped")
    with pytest.raises(FileNotFoundError, match="not written to the end"):
        ShardReader(tmp_path / "s")


def test_shards_are_not_overwritten(shards):
    with pytest.raises(FileExistsError, match="already"):
        ShardWriter(shards)


def test_pairs_saved_are_read_back(material, tmp_path):
    pairs = make_pairs([material], 3, ClipShape(3, 32, 32), 0, 0, recipe("video"))
    pairs.save(tmp_path / "pairs")
    stacked = ShardReader(tmp_path / "pairs").read_shard(0)
    assert torch.equal(stacked["hq"], torch.from_numpy(pairs.hq)) and torch.equal(
        stacked["lq"], torch.from_numpy(pairs.lq)
    )
    (sample,) = ShardDataset(tmp_path / "pairs", budget=3 * 32 * 32)[4]
    assert sample["lq"].shape == (3, 8, 8, 3)


def test_latents_are_encoded_once(tmp_path):
    batch = [{"hq": torch.rand(3, 5, 16, 16), "lq": torch.rand(3, 5, 16, 16), "identity": "clip"}]

    def encode(x):
        return x[:, ::4, ::8, ::8], -x[:, ::4, ::8, ::8]

    write_latents([batch, batch], encode, tmp_path / "latents")
    (first, *_) = ShardDataset(tmp_path / "latents", budget=2 * 2 * 2)[0]
    assert torch.equal(first["hq_mean"], batch[0]["hq"][:, ::4, ::8, ::8])
    assert torch.equal(first["lq_logvar"], -batch[0]["lq"][:, ::4, ::8, ::8])
    assert ShardReader(tmp_path / "latents").shards[0]["size"] == 2 * 2 * 2
