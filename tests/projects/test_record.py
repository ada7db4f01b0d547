"""The JSON beside a result: what it says, when it is there, and that it never costs the result."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from common import file_hash
from data.media import ClipRange
from projects.video_diffusion_sr import record
from projects.video_diffusion_sr.cli_parser import ROOT
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.record import recorder
from projects.video_diffusion_sr.request import Request, ResultOptions
from projects.video_diffusion_sr.restore import restore_clip
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.settings import RunSettings, resolve
from tests.projects.test_restore import RES, SMALL, restorer, write_clip  # noqa: F401 (restorer is a fixture)
from tests.projects.test_sequences import frames_in, run, tree

REQUEST = Request(res=RES, random_weights=True, overrides=tuple(SMALL), window_frames=0)


def settings_for(request: Request) -> RunSettings:
    return resolve(SEEDVR2_TINY, request, torch.device("cpu"))


def recording(made: Restorer, **asked) -> Restorer:
    """As the command line makes it."""
    request = replace(REQUEST, **asked)
    return replace(
        made,
        recorder=recorder(settings_for(request)),
        seed=request.seed,
        result_options=request.result_options,
        clip_range=request.clip_range,
    )


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_record_says_what_was_asked_for_and_what_came_of_it(restorer, tmp_path):  # noqa: F811
    clip = write_clip(tmp_path / "clip.mp4", 5)
    made = recording(restorer, seed=7, result_options=ResultOptions(color_fix="lab"), clip_range=ClipRange(count=3))
    done = restore_clip(clip, tmp_path / "out", made)
    said = json.loads((tmp_path / "out" / "clip_f0-f3.mp4.json").read_text())
    settings, result = said["settings"], said["result"]
    assert (settings["seed"], settings["model"], settings["dtype"]) == (7, "SeedVR2-tiny", "float32")
    assert settings["request"]["result_options"]["color_fix"] == "lab" and settings["sampling"]["steps"] == 1
    assert settings["config"]["dit"]["model"]["num_layers"] == 2 and settings["request"]["overrides"] == SMALL
    assert (result["frames"], result["height"], result["width"]) == (3, *RES)
    assert result["bytes"] == done.output.stat().st_size and result["peak_memory_bytes"] == done.peak_memory > 0
    seconds = result["seconds"]
    assert 0 < seconds["encode"] + seconds["sample"] + seconds["decode"] <= seconds["all"]
    assert said["input"]["bytes"] == clip.stat().st_size and said["input"]["path"] == str(clip)
    assert said["input"]["part"]["count"] == 3 and said["weights"] == [] and said["versions"]["torch"]


def test_weights_are_named_by_their_sums():
    files = [ROOT / "ckpts" / "tiny" / f"{name}.safetensors" for name in ("dit", "vae")]
    weights = recorder(settings_for(Request(res=RES))).weights.result(timeout=60)
    assert [(entry["of"], entry["path"]) for entry in weights] == [
        ("transformer", str(files[0])),
        ("vae", str(files[1])),
    ]
    assert [entry["sha256"] for entry in weights] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_a_sum_is_worked_out_again_only_when_the_file_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hash, "KEPT_BYTES", 0)
    file, cache, read = tmp_path / "weights", tmp_path / "cache" / "sums.json", []
    monkeypatch.setattr(file_hash, "sha256_of", lambda path: read.append(path) or path.read_text())
    for content in ("one", "one", "three"):
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
        assert file_hash.known_sha256(file, cache) == content
    assert len(read) == 2
    cache.write_text("no json")
    assert file_hash.known_sha256(file, cache) == "three" and len(read) == 3


def test_a_record_goes_with_its_result(restorer, tmp_path):  # noqa: F811
    walk, out = frames_in(tmp_path / "walk", 2), tmp_path / "out"
    pictures = ResultOptions(frames_out="png")
    for seed in (1, 2):
        restore_clip(walk, out, recording(restorer, seed=seed, result_options=pictures))
        assert tree(out) == ["walk.json", "walk/frame_00001.png", "walk/frame_00002.png"]
        assert json.loads((out / "walk.json").read_text())["settings"]["seed"] == seed
    restore_clip(walk, out, replace(restorer, result_options=pictures))
    assert not (out / "walk.json").exists()


def test_a_run_leaves_a_record_unless_told_not_to(picture, tmp_path):
    assert run(picture, tmp_path / "out", record=True) == 0 and tree(tmp_path / "out") == ["a.png", "a.png.json"]
    assert run(picture, tmp_path / "out", "--overwrite") == 0 and tree(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_no_record_stays_and_the_result_is_made(restorer, picture, tmp_path, caplog, wanted):  # noqa: F811
    foreign = tmp_path / "out" / "a.png.json"
    foreign.parent.mkdir()
    foreign.write_text('{"title": "of a photo archive"}')
    assert restore_clip(picture, foreign.parent, recording(restorer) if wanted else restorer).output.is_file()
    assert "photo archive" in foreign.read_text()
    assert ("a.png.json is no record of a result, and stays" in caplog.text) == wanted


def test_a_record_that_fails_is_one_line(restorer, picture, tmp_path, caplog, monkeypatch):  # noqa: F811
    def fail(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "atomic_write", fail)
    restore_clip(picture, tmp_path / "out", recording(restorer))
    assert tree(tmp_path / "out") == ["a.png"]
    assert caplog.text.count("a.png.json: cannot be written: No space left on device") == 1
