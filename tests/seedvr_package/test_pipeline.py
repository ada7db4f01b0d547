"""The diffusers-style pipeline: a restorer's numbers, a folder that can be read again, demands that plans meet."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import seedvr
from projects.video_diffusion_sr.memory.budget import make_budget
from projects.video_diffusion_sr.output_size import OutputSize
from seedvr import engine
from tests.conftest import ROOT
from tests.seeded_weights import SMALL, seeded_weights

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
SIZE = {"height": 32, "width": 48}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    return {"device": "cpu", "ckpt_dir": seeded_weights(tmp_path_factory.mktemp("weights")), "overrides": SMALL}


@pytest.fixture(scope="module")
def pipe(settings) -> seedvr.SeedVRPipeline:
    return seedvr.SeedVRPipeline.from_pretrained("seedvr2_tiny", **settings)


@pytest.fixture(scope="module")
def expected(pipe) -> np.ndarray:
    return pipe.restorer(FRAMES, size=(48, 32), seed=3)


def test_every_output_holds_the_restorers_frames(pipe, expected):
    array = pipe(video=FRAMES, seed=3, **SIZE).frames
    assert array.shape == (1, 5, 32, 48, 3) and array.dtype == np.float32
    assert np.array_equal(np.round(array[0] * 255).astype(np.uint8), expected)
    tensor = pipe(torch.from_numpy(FRAMES).permute(0, 3, 1, 2), seed=3, output_type="pt", **SIZE).frames
    assert tensor.shape == (1, 5, 3, 32, 48) and np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    ((pictures,),) = pipe([Image.fromarray(f) for f in FRAMES], seed=3, output_type="pil", return_dict=False, **SIZE)
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), expected)
    assert pipe(image=Image.fromarray(FRAMES[0]), scale=2).frames.shape == (1, 1, 32, 48, 3)


def test_several_clips_and_generators(pipe):
    both = pipe(np.stack([FRAMES, FRAMES[::-1]]), generator=torch.Generator().manual_seed(1), **SIZE).frames
    generator = torch.Generator().manual_seed(1)
    assert np.array_equal(pipe(FRAMES, generator=generator, **SIZE).frames[0], both[0])
    assert not np.array_equal(pipe(FRAMES, generator=generator, **SIZE).frames[0], both[0])
    assert not np.array_equal(both[1], both[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "a video or an image"),
        ({"video": FRAMES, "image": FRAMES}, "a video or an image"),
        ({"video": FRAMES, "output_type": "latent"}, "output_type 'latent'"),
        ({"video": FRAMES, "height": 32}, "height and width are given together"),
        ({"video": FRAMES, "seed": 1, "generator": torch.Generator()}, "a generator or a seed"),
        ({"video": FRAMES, "num_inference_steps": 0}, "steps 0"),
    ],
)
def test_what_makes_no_sense_is_refused(pipe, given, words):
    with pytest.raises(seedvr.InputError, match=words):
        pipe(**given)


def test_a_saved_folder_gives_the_same_numbers_wherever_it_lies(pipe, expected, tmp_path):
    pipe.save_pretrained(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    index = json.loads((tmp_path / "b" / "model_index.json").read_text())
    assert index["_class_name"] == "SeedVRPipeline" and index["preset"] == "seedvr2_tiny"
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "model_index.json", "config.yaml", "transformer", "vae", "text_embeddings",
    }  # fmt: skip
    again = seedvr.SeedVRPipeline.from_pretrained(tmp_path / "b", device="cpu")
    assert np.array_equal(again.restorer(FRAMES, size=(48, 32), seed=3), expected)
    again.save_pretrained(tmp_path / "b")  # over itself
    again.maybe_free_model_hooks()
    assert np.array_equal(again.restorer(FRAMES, size=(48, 32), seed=3), expected)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"_class_name": "WanPipeline"}'])
def test_another_pipelines_folder_is_refused(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(seedvr.WeightsError, match=str(tmp_path)):
        seedvr.SeedVRPipeline.from_pretrained(tmp_path, device="cpu")


def test_what_is_enabled_is_in_the_plan_and_keeps_the_numbers(settings, expected, monkeypatch):
    monkeypatch.setattr(engine, "read_budget", lambda run, parallel: make_budget(run, parallel, 1000.0))
    pipe = seedvr.SeedVRPipeline.from_pretrained("seedvr2_tiny", **settings)
    inner = pipe.restorer._engine
    assert np.array_equal(pipe.restorer(FRAMES, size=(48, 32), seed=3), expected) and inner._placed.offload == "none"
    pipe.enable_vae_tiling()  # a picture smaller than a tile is one tile
    pipe.enable_model_cpu_offload()
    assert np.array_equal(pipe.restorer(FRAMES, size=(48, 32), seed=3), expected)
    assert inner._placed.offload == "models" and inner._placed.schedule.tile is None
    clip = engine.MediaInfo(engine.Path("clip"), "video", 1280, 720, frame_count_hint=5)
    geometry = engine.replace(inner.settings.geometry, size=OutputSize(scale=1))
    assert inner._plan(geometry, clip).schedule.tile is not None
    pipe.disable_vae_tiling()
    assert inner._plan(geometry, clip).schedule.tile is None
    pipe.enable_sequential_cpu_offload()
    assert inner._plan(geometry, clip).offload == "blocks"


def test_on_a_cpu_the_log_says_that_nothing_is_planned(pipe, caplog):
    caplog.set_level(logging.WARNING)
    pipe.enable_model_cpu_offload()
    assert "enable_model_cpu_offload: memory is planned on CUDA devices; on the cpu it has no effect" in caplog.text
    assert pipe.to("cpu") is pipe and pipe.device.type == "cpu"
    with pytest.raises(seedvr.InputError, match="no Apple MPS device"):
        pipe.to("mps")


def test_the_pipeline_does_not_need_diffusers_to_be_imported():
    check = "import sys, seedvr; seedvr.SeedVRPipeline; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
