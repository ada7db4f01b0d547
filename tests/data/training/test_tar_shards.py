"""Clips in tar files are the clips themselves: the same sources, draws and texts, whoever reads them from wherever."""

import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data.training.clip_dataset import ClipDataset, DegradationRecipes
from data.training.index import Index, build_index, cached_index
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape, RankSeed
from data.training.tar_shards import Member, members, opened
from tests.data.training.conftest import recipe

SHAPES = [ClipShape(5, 32, 48), ClipShape(1, 64, 64)]


@pytest.fixture
def folder(tmp_path, material) -> Path:
    """The material in one folder, a clip with its text."""
    made = tmp_path / "files"
    made.mkdir()
    for source in material.rglob("*.*"):
        (made / source.name).write_bytes(source.read_bytes())
    save_file({"text": torch.rand(4, 6)}, made / "a.safetensors")
    return made


@pytest.fixture
def shards(tmp_path, folder) -> Path:
    """The same in two tars, and one that was not copied whole."""
    made = tmp_path / "shards"
    made.mkdir()
    files = sorted(folder.iterdir())
    for number, chosen in enumerate((files[:3], files[3:])):
        with tarfile.open(made / f"clips-{number:06}.tar", "w") as archive:
            for file in reversed(chosen):
                archive.add(file, arcname=f"./{file.name}")
    (made / "cut.tar").write_bytes((made / "clips-000000.tar").read_bytes()[:2000])
    return made


def drawn(where: Path, rank_seed: RankSeed) -> list[list[dict]]:
    recipes = DegradationRecipes(recipe("video"), recipe("image"))
    data = ClipDataset([where], SHAPES, 3 * 64 * 64, recipes, rank_seed, SamplerConfig(image_share=0.2))
    return [data[step] for step in (0, 1, 2, 7)]


@pytest.mark.parametrize("rank_seed", [RankSeed(3), RankSeed(3, 1, 2)])
def test_draws_from_shards_are_those_from_files(folder, shards, rank_seed):
    texts = 0
    for plain, packed in zip(drawn(folder, rank_seed), drawn(shards, rank_seed), strict=True):
        assert len(plain) == len(packed) > 0
        for a, b in zip(plain, packed, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a if key != "identity")
            assert Path(a["identity"].split()[0]).name in b["identity"]
            texts += "text" in a
    assert texts


def test_an_index_of_shards_is_kept_and_counts_what_is_broken(shards, folder, tmp_path):
    index = cached_index([shards], tmp_path / "index.json")
    assert index == Index.load(tmp_path / "index.json") == cached_index([shards], tmp_path / "index.json")
    sizes = [(s.is_video, s.frames, s.height, s.width, s.text is not None) for s in index.sources]
    assert sizes == [
        (s.is_video, s.frames, s.height, s.width, s.text is not None) for s in build_index([folder]).sources
    ]
    assert index.broken == 1


def test_a_member_is_read_where_it_lies(shards, folder):
    for tar in sorted(shards.glob("clips-*.tar")):
        for member in members(tar):
            with opened(str(member)) as file:
                content = (folder / member.name).read_bytes()
                assert file.read() == content
                assert file.seek(-5, 2) == len(content) - 5 and file.read(9) == content[-5:]
            assert Member.parse(str(member)) == member
    with opened(str(folder / "a.mp4")) as path:
        assert path == str(folder / "a.mp4")


def test_what_is_no_plain_tar_is_refused(tmp_path, folder):
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(folder / "a.mp4")
    with pytest.raises(ValueError, match=r"packed\.tar is no plain tar .* must not be compressed"):
        members(tmp_path / "packed.tar")
