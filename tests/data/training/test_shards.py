"""Shards give back what was written, in batches with the dataset's contract."""

import pickle

import pytest
import torch

from data.training import latent_shards
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


def test_batches_keep_the_budget_and_the_draws(shards):
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


def encode(x):
    """Stands in for a VAE: mean and log-variance."""
    return x[:, ::4, ::8, ::8], -x[:, ::4, ::8, ::8]


def clip(number: int, tokens: int = 0) -> dict:
    """A sample of the dataset; `tokens`: with a text embedding of so many."""
    draws = torch.Generator().manual_seed(number)
    sample = {name: torch.rand(3, 5, 16, 16, generator=draws) for name in ("hq", "lq")} | {"identity": f"clip {number}"}
    return sample | ({"text": torch.rand(tokens, 6, generator=draws)} if tokens else {})


def test_latents_are_encoded_once_and_stored_in_16_bits(tmp_path):
    batch = [clip(0)]
    write_latents(lambda start: [batch, batch][start:], encode, tmp_path / "latents")
    (first, *_) = ShardDataset(tmp_path / "latents", budget=2 * 2 * 2)[0]
    assert torch.equal(first["hq_mean"], batch[0]["hq"][:, ::4, ::8, ::8].half())
    assert torch.equal(first["lq_logvar"], -batch[0]["lq"][:, ::4, ::8, ::8].half())
    assert ShardReader(tmp_path / "latents").shards[0]["size"] == 2 * 2 * 2


def test_texts_of_any_length_are_stored_with_their_clips(tmp_path):
    samples = [clip(i, tokens) for i, tokens in enumerate((3, 64, 70, 5))]
    write_latents(lambda start: [samples][start:], encode, tmp_path / "latents")
    reader = ShardReader(tmp_path / "latents")
    assert len(reader.shards) == 2  # padded to 64 and to 128 tokens
    for number, shard in enumerate(reader.shards):
        for row, identity in enumerate(shard["identities"]):
            text = reader.read(number, row)["text"]
            assert torch.equal(text, samples[int(identity.split()[1])]["text"])


def test_an_interrupted_job_goes_on_where_it_was(tmp_path, monkeypatch):
    """Killed in the middle, the second attempt encodes what is left, and every sample is there once."""
    monkeypatch.setattr(latent_shards, "BATCHES_BETWEEN", 2)
    asked = []

    def batches(start, last=7):
        for number in range(start, last):
            asked.append(number)
            yield [clip(number)]
            if last < 7 and number == last - 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(lambda start: batches(start, 5), encode, tmp_path / "l", "job")
    with pytest.raises(FileNotFoundError):
        ShardReader(tmp_path / "l")
    with pytest.raises(ValueError, match="begun with other settings"):
        write_latents(batches, encode, tmp_path / "l", "another")
    write_latents(batches, encode, tmp_path / "l", "job")
    assert asked == [0, 1, 2, 3, 4, 4, 5, 6]  # the fifth was not on disk yet
    names = [identity for shard in ShardReader(tmp_path / "l").shards for identity in shard["identities"]]
    assert sorted(names) == [f"clip {i}" for i in range(7)]
    assert sorted(p.name for p in (tmp_path / "l").iterdir() if p.suffix == ".json") == ["index.json"]


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"files": []}', "not JSON", ""])
def test_an_index_of_another_kind_is_a_sentence(tmp_path, text):
    """A run's --output holds its list of sources under the same name."""
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is no index of stored latents .*; name a folder"):
        ShardReader(tmp_path)
