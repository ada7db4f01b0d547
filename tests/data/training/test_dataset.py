"""The dataset of pairs: right frames and form, one sample for one (seed, step, slot), broken files survived."""

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from data.scene_cuts import has_cut
from data.training import index as index_module
from data.training.buckets import expand, fits
from data.training.clip_dataset import ClipDataset, DegradationRecipes, make_loader, read_text
from data.training.decode import DecodeError, FrameReader, decode
from data.training.index import Index, Source, build_index, cached_index
from data.training.make_pairs import make_pairs
from data.training.model_range import to_model_range, upsample_to_model_range
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape, RankSeed
from tests.data.training.conftest import LEVEL_STEP, recipe

SHAPES = (ClipShape(5, 32, 48), ClipShape(1, 64, 64), ClipShape(9, 32, 32, weight=0.5))
BUDGET = 20_000


def dataset(folder, **changes) -> ClipDataset:
    rank_seed = RankSeed(changes.pop("seed", 1), changes.pop("rank", 0), changes.pop("world", 1))
    values = {"shapes": SHAPES, "budget_pixels": BUDGET} | changes
    return ClipDataset(
        [folder], recipes=DegradationRecipes(recipe("video"), recipe("image")), rank_seed=rank_seed, **values
    )


def test_index_finds_sizes_and_frames_in_path_order(material, tmp_path):
    index = build_index([material])
    assert [s.path for s in index.sources] == sorted(s.path for s in index.sources)
    by_name = {s.path.rsplit("/", 1)[-1]: s for s in index.sources}
    assert (by_name["a.mp4"].frames, by_name["a.mp4"].height, by_name["a.mp4"].width) == (30, 96, 128)
    assert by_name["b.mkv"].frames == 12  # Matroska has no count in its header
    assert not by_name["photo0.png"].is_video and index.broken == 0
    index.save(tmp_path / "index.json")
    assert Index.load(tmp_path / "index.json") == index


def test_broken_files_are_counted(broken_material):
    assert build_index([broken_material]).broken == 2
    with pytest.raises(FileNotFoundError, match="does not exist"):
        build_index([broken_material / "nowhere"])


def test_files_that_break_while_decoding_are_replaced(broken_material):
    data = dataset(broken_material, shapes=[ClipShape(1, 64, 64)], sampler=SamplerConfig(frame_share=0), as_uint8=True)
    identities = [sample["identity"] for step in range(6) for sample in data[step]]
    assert len(identities) == 6 * (BUDGET // 64**2) and not any("cut.png" in i for i in identities)
    assert {path.rsplit("/", 1)[-1] for path in data.sampler.broken} == {"cut.png"}


@pytest.mark.parametrize("name", ["clips/a.mp4", "clips/b.mkv"])
def test_any_start_gives_the_frames_asked_for(material, name):
    source = next(s for s in build_index([material]).sources if s.path.endswith(name))
    for start in range(0, source.frames - 2, 3):
        levels = decode(source, start, 3).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(levels, LEVEL_STEP * (start + np.arange(3)), atol=2)


def test_cache_gives_the_same_frames_and_keeps_its_limit(material):
    videos = [s for s in build_index([material]).sources if s.is_video]
    limit = 4 * 30 * 96 * 128 * 3
    cached = FrameReader(limit)
    for _ in range(2):
        for source in videos:
            np.testing.assert_array_equal(cached.read(source, 4, 5), decode(source, 4, 5))
    assert cached._cached_bytes <= limit and len(cached._cache) == 2


def test_a_file_shorter_than_its_header_is_an_error(material):
    source = next(s for s in build_index([material]).sources if s.path.endswith("b.mkv"))
    with pytest.raises(DecodeError, match="found"):
        decode(Source(source.path, True, 40, source.height, source.width), 20, 15)


def test_samples_have_the_promised_form(material):
    data, seen = dataset(material), set()
    for step in range(12):
        batch = data[step]
        assert sum(s["hq"][0].numel() for s in batch) <= BUDGET
        for sample in batch:
            hq, lq = sample["hq"], sample["lq"]
            assert hq.shape == lq.shape and hq.shape[0] == 3 and hq.dtype == lq.dtype == torch.float32
            assert hq.abs().max() <= 1 and lq.abs().max() <= 1
            assert f"step={step}" in sample["identity"]
            seen.add(tuple(hq.shape[1:]))
    assert seen == {(s.frames, s.height, s.width) for s in SHAPES}


def test_a_sample_is_a_function_of_seed_step_and_slot(material):
    first, again, other = dataset(material), dataset(material), dataset(material, seed=2)
    again[0]  # what was read before must not matter
    for a, b in zip(first[7], again[7], strict=True):
        assert a["identity"] == b["identity"]
        torch.testing.assert_close(a["hq"], b["hq"], rtol=0, atol=0)
        torch.testing.assert_close(a["lq"], b["lq"], rtol=0, atol=0)
    assert {s["identity"] for s in other[7]}.isdisjoint(s["identity"] for s in first[7])


def test_ranks_see_different_samples(material):
    ranks = [dataset(material, rank=r, world=2, as_uint8=True)[3] for r in range(2)]
    assert [s["hq"].shape for s in ranks[0]] == [s["hq"].shape for s in ranks[1]]
    assert {s["identity"] for s in ranks[0]}.isdisjoint(s["identity"] for s in ranks[1])


def test_worker_processes_give_the_same_batches_in_order(material):
    data = dataset(material, as_uint8=True)
    for step, batch in zip(range(5, 8), make_loader(data, 5, 8, workers=1), strict=True):
        for got, want in zip(batch, data[step], strict=True):
            assert got["identity"] == want["identity"]
            assert torch.equal(got["lq"], want["lq"])


def test_low_quality_is_enlarged_as_inference_does():
    lq = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    large = upsample_to_model_range(lq, 32, 48)
    frames = lq.permute(0, 3, 1, 2).float() / 255
    want = F.interpolate(frames, (32, 48), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(large, want.transpose(0, 1))
    torch.testing.assert_close(upsample_to_model_range(torch.stack([lq, lq]), 32, 48)[1], large)


def test_enlarging_agrees_with_the_resize_of_inference():
    from data.image.transforms.na_resize import NaResize

    lq = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    resize = NaResize(resolution=(64 * 96) ** 0.5, mode="area")
    want = resize(lq.permute(0, 3, 1, 2).float() / 255).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(upsample_to_model_range(lq, 64, 96), want.transpose(0, 1))


def test_pixel_range():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 4, 5, 3)
    scaled = to_model_range(pixels)
    assert scaled.shape == (3, 2, 4, 5) and scaled[:, 0].eq(-1).all() and scaled[:, 1].eq(1).all()


def test_shapes_that_cannot_be_served_are_refused(material):
    with pytest.raises(ValueError, match="large enough"):
        dataset(material, shapes=[ClipShape(5, 512, 512)], budget_pixels=10**7)
    with pytest.raises(ValueError, match=r"long enough.* has 30 frames"):
        dataset(material, shapes=[ClipShape(33, 32, 32)], budget_pixels=10**6, sampler=SamplerConfig(motion=None))
    with pytest.raises(ValueError, match="smaller"):
        dataset(material, shapes=[ClipShape(1, 34, 32)])


def test_pairs_do_not_depend_on_the_number_of_processes(material):
    arguments = ([material], 6, ClipShape(3, 32, 32), 11)
    alone = make_pairs(*arguments, 0, recipe("video"))
    together = make_pairs(*arguments, 2, recipe("video"))
    assert alone.hq.shape == (6, 3, 32, 32, 3) and alone.lq.shape == (6, 3, 8, 8, 3)
    np.testing.assert_array_equal(alone.hq, together.hq)
    np.testing.assert_array_equal(alone.lq, together.lq)
    assert alone.identities == together.identities


def test_an_index_is_kept_until_a_file_changes(broken_material, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "index.json"
    first = cached_index([broken_material], cache)
    monkeypatch.setattr(index_module, "probe", lambda path: pytest.fail(f"{path} was probed again"))
    assert cached_index([broken_material], cache) == first
    monkeypatch.undo()
    (broken_material / "photo0.safetensors").touch()  # a text embedding came
    again = cached_index([broken_material], cache)
    assert [s.path for s in again.sources if s.text] == [str(broken_material / "photo0.png")]
    cache.write_text("no index")
    assert cached_index([broken_material], cache) == again


def test_a_text_beside_a_clip_comes_with_its_samples(broken_material):
    text = torch.rand(4, 6)
    save_file({"text": text}, broken_material / "a.safetensors")
    data = dataset(broken_material, shapes=[ClipShape(9, 32, 32)], sampler=SamplerConfig(image_share=0.0))
    samples = [sample for step in range(4) for sample in data[step]]
    for sample in samples:
        assert ("text" in sample) == ("a.mp4" in sample["identity"])
    assert any("text" in sample and torch.equal(sample["text"], text) for sample in samples)
    save_file({"a": text, "b": text + 1}, broken_material / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors holds a \(4, 6\), b"):
        read_text(broken_material / "a.safetensors")


def source(height: int, width: int, frames: int = 1) -> Source:
    return Source(f"{height}x{width}", frames > 1, frames, height, width)


def test_buckets_take_the_sources_of_their_aspect():
    sources = [source(1080, 1920, 50)] * 3 + [source(1920, 1080, 50)] + [source(800, 800, 50), source(300, 300, 50)]
    group = ClipShape(9, 720, 720, weight=2.0, aspects=(1.78, 1.0, 0.56))
    buckets = expand([group, ClipShape(1, 64, 64)], sources)
    sizes = {(b.height, b.width): b.weight for b in buckets[:-1]}
    assert sizes == {(544, 944): 1.2, (720, 720): 0.4, (944, 544): 0.4} and buckets[-1] == ClipShape(1, 64, 64)
    assert all(b.pixels <= group.pixels and b.height % 16 == b.width % 16 == 0 for b in buckets[:-1])
    for s in sources[:-1]:  # each of those that are large enough goes into exactly one
        assert sum(fits(b, s) for b in buckets[:-1]) == 1
    assert not any(fits(b, sources[-1]) for b in buckets[:-1])
    small = source(720, 900)  # too small for the nearest bucket, 544x944: it takes the next
    assert [fits(b, small) for b in buckets[:-1]] == [False, True, False]
    with pytest.raises(ValueError, match="no source is large enough for 9 frames of about 720x720"):
        expand([group], [source(64, 64, 50)])


def test_cuts_are_found_and_motion_is_not_one():
    rng = np.random.default_rng(0)
    scenes = [cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (160, 160)) for _ in range(2)]
    pan = [[np.roll(scene, 3 * i, axis=1)[:96, :128] for i in range(6)] for scene in scenes]
    fade = [(np.full((96, 128, 3), 40 * i)).astype(np.uint8) for i in range(6)]
    assert has_cut(np.stack(pan[0][:3] + pan[1][3:])) and has_cut(np.stack([pan[0][0], pan[1][0]]))
    assert not has_cut(np.stack(pan[0])) and not has_cut(np.stack(fade)) and not has_cut(np.stack(pan[0][:1]))


def test_clips_across_a_cut_are_drawn_again(tmp_path):
    """A video of two scenes: no clip holds frames of both, unless it is told to take what comes."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(20):
            pixels = np.full((64, 64, 3), 30 if i < 10 else 220, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))

    def spans(reject: bool) -> int:
        data = dataset(tmp_path, shapes=[ClipShape(5, 32, 32)], sampler=SamplerConfig(reject_cuts=reject))
        clips = [sample["hq"] for step in range(6) for sample in data[step]]
        return sum(bool(clip.amax() - clip.amin() > 1) for clip in clips)

    assert spans(True) == 0 and spans(False) > 0


def test_a_dataset_cuts_its_buckets(material):
    """Clips go to the wide bucket, photographs to the square one, and the tall one has no source."""
    data = dataset(material, shapes=[ClipShape(5, 64, 64, aspects=(1.67, 1.0, 0.6))], budget_pixels=45_000)
    shapes = {tuple(sample["hq"].shape) for step in range(3) for sample in data[step]}
    assert shapes <= {(3, 5, 48, 80), (3, 5, 64, 64)} and (3, 5, 48, 80) in shapes
    with pytest.raises(ValueError, match="positive"):
        dataset(material, shapes=[ClipShape(5, 64, 64, aspects=(0.0,))])


def test_clips_alone_are_those_of_the_pairs(material):
    """What the VAE's stage reads: the same crops, without the work of degrading them."""
    pairs = dataset(material, as_uint8=True)
    alone = ClipDataset([material], SHAPES, BUDGET, DegradationRecipes(), RankSeed(1), as_uint8=True)
    for a, b in zip(pairs[3], alone[3], strict=True):
        assert torch.equal(a["hq"], b["hq"]) and a["identity"] == b["identity"] and "lq" not in b
