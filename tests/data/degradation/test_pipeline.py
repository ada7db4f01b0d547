"""The two recipes: order, shapes, determinism, one draw of kinds per clip."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.degradation.config import VideoDegradationConfig
from data.degradation.pipeline import ImageDegradation, VideoDegradation, build_degradation
from tests.data.degradation.test_operators import moving_clip

CONFIGS = Path(__file__).resolve().parents[3] / "configs_degradation"
SHARED_ORDER = ["sharpen", "blur_1", "resize_1", "noise_1", "jpeg_1"]
SECOND_ROUND = ["blur_2", "resize_2", "noise_2"]
FINAL = ["final_resize", "final_sinc"]


def config(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def clip(side: int = 96, frames: int = 4) -> np.ndarray:
    return (np.stack(moving_clip(side, frames)) * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["video", "image"])
def test_output_form_and_determinism(name):
    degrade, source = build_degradation(config(name)), clip()
    first = degrade(source, 7)
    assert first.shape == (4, 24, 24, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, degrade(source, 7))
    np.testing.assert_array_equal(first, degrade(source, np.random.default_rng(7)))
    assert (first != degrade(source, 8)).any()


HASH_OF_A_FEW = """
import hashlib, numpy as np, yaml
from data.degradation.pipeline import build_degradation
from tests.data.degradation.test_operators import moving_clip
degrade = build_degradation(yaml.safe_load(open("configs_degradation/video.yaml")))
rng = np.random.default_rng(0)
clip = np.clip(np.stack(moving_clip(160, 3)) + rng.normal(size=(3, 160, 160, 3)) * 0.05, 0, 1)
print(hashlib.sha256(b"".join(degrade(clip, seed).tobytes() for seed in range(12))).hexdigest())
"""


def test_result_does_not_depend_on_what_memory_held_before():
    """libx264's macroblock tree once read memory that nobody had written; glibc fills new memory as asked here."""
    hashes = set()
    for fill in ("1", "170"):
        environment = os.environ | {"MALLOC_PERTURB_": fill, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", HASH_OF_A_FEW]
        run = subprocess.run(command, cwd=CONFIGS.parent, env=environment, capture_output=True, text=True, check=True)
        hashes.add(run.stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["video", "image"])
def test_low_quality_still_shows_the_same_picture(name):
    degrade, source = build_degradation(config(name)), clip()
    means = np.array([degrade(source, seed).mean(axis=(1, 2)) for seed in range(8)])  # 8 T 3
    assert np.abs(np.median(means, axis=0) - source.mean(axis=(1, 2))).max() < 12


def test_uint8_and_float_sources_agree():
    degrade, source = ImageDegradation(config("image")), clip(frames=1)
    np.testing.assert_array_equal(degrade(source, 1), degrade(source.astype(np.float32) / np.float32(255), 1))


def test_source_is_not_written():
    source = clip()
    before = source.copy()
    VideoDegradation(config("video"))(source, 0)
    np.testing.assert_array_equal(source, before)


def test_clip_order_and_both_endings():
    degrade, endings = VideoDegradation(config("video")), set()
    source = clip(64, 2)
    for seed in range(12):
        trace = []
        degrade(source, seed, trace)
        names = [step.stage for step in trace]
        assert names[:10] == [*SHARED_ORDER, "compression_1", *SECOND_ROUND, "jpeg_2"]
        endings.add(tuple(names[10:]))
    assert endings == {("compression_2", *FINAL), (*FINAL, "compression_2")}


def test_image_order_and_both_endings():
    degrade, endings = ImageDegradation(config("image")), set()
    for seed in range(12):
        trace = []
        degrade(clip(64, 1), seed, trace)
        names = [step.stage for step in trace]
        assert names[:8] == [*SHARED_ORDER, *SECOND_ROUND]
        endings.add(tuple(names[8:]))
    assert endings == {("jpeg_2", *FINAL), (*FINAL, "jpeg_2")}


def test_kinds_are_drawn_once_and_magnitudes_walk():
    degrade, frames = VideoDegradation(config("video")), 6
    kinds = set()
    for seed in range(6):
        trace = []
        degrade(clip(64, frames), seed, trace)
        steps = {step.stage: step.draw for step in trace}
        assert isinstance(steps["noise_1"].kind, str) and len(steps["noise_1"].levels) == frames
        assert len(np.unique(steps["noise_1"].levels)) > 1
        assert len(steps["jpeg_1"].qualities) == frames and np.ptp(steps["jpeg_1"].qualities) <= 3 * frames
        assert steps["blur_1"].kernels.shape == (frames, steps["blur_1"].size, steps["blur_1"].size)
        kinds.add((steps["blur_1"].kind, steps["noise_1"].kind, steps["compression_1"].codec))
    assert len(kinds) > 1


def test_second_resize_of_images_refers_to_the_output():
    trace = []
    values = config("image")
    values["resize_2"]["modes"] = {"keep": 1.0}
    ImageDegradation(values)(clip(96, 1), 0, trace)
    (step,) = (s for s in trace if s.stage == "resize_2")
    assert step.first_frame.shape == (24, 24, 3)


def test_unknown_missing_and_foreign_configurations_are_refused():
    with pytest.raises(ValueError, match=r"unknown key degradation\.blur_1\.sigmaa"):
        values = config("video")
        values["blur_1"]["sigmaa"] = 1
        VideoDegradation(values)
    with pytest.raises(ValueError, match=r"lacks the keys.*jpeg_1"):
        VideoDegradationConfig.parse({k: v for k, v in config("video").items() if k != "jpeg_1"})
    with pytest.raises(ValueError, match=r"noise_1\.kinds must give a probability"):
        values = config("video")
        values["noise_1"]["kinds"] = {"gaussian": 0.0}
        VideoDegradation(values)
    with pytest.raises(ValueError, match="kind"):
        build_degradation({"kind": "audio"})


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 30, 32, 3), np.uint8), np.zeros((32, 32, 3)), np.zeros((1, 32, 32, 3), int)]
)
def test_bad_clips_are_refused_with_a_sentence(bad):
    with pytest.raises(ValueError):
        VideoDegradation(config("video"))(bad, 0)
