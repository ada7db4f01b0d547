"""The Python interface: the command line's numbers, every form of frames, streams, cancelled runs, typed errors."""

import json
import threading
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import seedvr
from common.kernels import current_device
from data.media import open_media, segmented
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from seedvr import engine
from tests.conftest import ROOT
from tests.seeded_weights import SMALL, seeded_weights

SIZE = {"size": (48, 32)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return seeded_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def restorer(weights) -> seedvr.Restorer:
    return seedvr.load("seedvr2_tiny", device="cpu", window=9, ckpt_dir=weights, overrides=SMALL)


def noise(frames: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Thirteen frames: two windows, the last of which is not full."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuv420p"
        for picture in noise(13):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path: Path) -> np.ndarray:
    with open_media(path) as reader:
        return torch.stack([frame.pixels for frame in reader]).permute(0, 2, 3, 1).numpy()


def command_line(source: Path, folder: Path, weights: Path, *flags: str) -> Path:
    words = ["--video_path", source, "--output_dir", folder, "--size", "48x32", "--device", "cpu", "--window", "9"]
    words += ["--ckpt_dir", weights, *flags, "--set", *SMALL]
    assert main(SEEDVR2_TINY, list(map(str, words))) == 0
    return folder / source.name


def test_files_and_pictures_are_those_of_the_command_line(restorer, weights, clip, tmp_path):
    flags = ["--seed", "3", "--strength", "0.8", "--color_fix", "adain"]
    settings = {**SIZE, "seed": 3, "strength": 0.8, "color_fix": "adain"}
    theirs = command_line(clip, tmp_path / "theirs", weights, *flags)
    ours = restorer.restore_file(clip, tmp_path / "ours" / "any.mp4", **settings)
    assert ours.read_bytes() == theirs.read_bytes()
    assert [path.name for path in ours.parent.iterdir()] == ["any.mp4"]
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.png")
    theirs = read(command_line(tmp_path / "a.png", tmp_path / "theirs", weights, *flags))[0]
    assert np.array_equal(restorer(noise(1)[0], **settings), theirs)
    assert np.array_equal(restorer(tmp_path / "a.png", **settings)[0], theirs)


def test_an_array_a_path_a_stream_and_pushed_frames_have_the_same_numbers(restorer, clip):
    frames = read(clip)
    whole = restorer(frames, **SIZE)
    assert whole.shape == (13, 32, 48, 3) and whole.dtype == np.uint8
    assert np.array_equal(restorer(str(clip), **SIZE), whole)
    assert np.array_equal(np.stack(list(restorer.stream(iter(frames), **SIZE))), whole)
    assert np.array_equal(np.stack(list(restorer.stream([frames[:5], frames[5:]], **SIZE))), whole)
    with restorer.live(**SIZE) as live:
        pushed = [live.push(frame) for frame in frames]
        assert not pushed[0] and any(pushed)  # before the end: the window was full
        assert np.array_equal(np.stack([frame for ready in pushed for frame in ready] + live.flush()), whole)
        with pytest.raises(seedvr.InputError, match="has ended"):
            live.push(frames[0])


def test_every_form_comes_back_as_it_came(restorer):
    frames = noise(2)
    expected = restorer(frames, **SIZE)
    last, first = torch.from_numpy(frames), torch.from_numpy(frames).permute(0, 3, 1, 2)
    for given in (last, first):
        result = restorer(given, **SIZE)
        assert isinstance(result, torch.Tensor) and result.dtype == torch.uint8
        assert np.array_equal(result if given is last else result.permute(0, 2, 3, 1), expected)
    for dtype in (torch.float32, torch.float64):
        result = restorer(first.to(dtype) / 255, **SIZE)
        assert result.dtype == dtype and 0 <= result.min() and result.max() <= 1
        difference = (result * 255).round().permute(0, 2, 3, 1).int().numpy() - expected.astype(int)
        assert np.abs(difference).max() <= 1  # where x / 255 * 255 falls on the other side
    result = restorer((frames / 255).astype(np.float32), **SIZE)
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    pictures = [Image.fromarray(frame) for frame in frames]
    assert np.array_equal(np.stack([np.asarray(p) for p in restorer(pictures, **SIZE)]), expected)
    one = restorer(pictures[0], **SIZE)
    assert isinstance(one, Image.Image) and one.size == (48, 32)
    assert np.array_equal(np.asarray(one), restorer(frames[0], **SIZE))
    assert np.array_equal(np.stack(restorer(list(frames), **SIZE)), expected)


def test_frames_of_a_caller_are_not_written_into(restorer):
    frames = noise(2).astype(np.float32) / 255
    before = frames.copy()
    restorer(frames, **SIZE)
    assert np.array_equal(frames, before)


def test_settings_are_obeyed(restorer):
    frames = noise(1)
    usual = restorer(frames, **SIZE)
    for change in ({"seed": 1}, {"strength": 0.5}, {"color_fix": "none"}, {"steps": 2}, {"guidance": 3.0}):
        assert not np.array_equal(restorer(frames, **SIZE, **change), usual), change
    assert restorer(frames, scale=2).shape == (1, 32, 48, 3)
    assert restorer(frames, short_side=32).shape == (1, 32, 48, 3)
    assert restorer(frames, height=32, width=48).shape == (1, 32, 48, 3)
    assert np.array_equal(restorer(frames, **SIZE), usual)  # nothing stays behind


def test_a_stream_holds_a_window_and_not_the_clip(restorer):
    pulled, most = 0, 0

    def source():
        nonlocal pulled
        for frame in noise(60):
            pulled += 1
            yield frame

    for given, _ in enumerate(restorer.stream(source(), **SIZE), 1):
        most = max(most, pulled - given)
    assert given == 60 and most <= 9 + 2 * 4
    with pytest.raises(seedvr.InputError, match="window"):
        next(seedvr.load("seedvr2_tiny", device="cpu", window=0).stream(source()))
    assert list(restorer.stream([])) == []


def test_progress_is_reported_by_stage(restorer, clip, tmp_path):
    said = []
    restorer(noise(13), **SIZE, progress=lambda *words: said.append(words))
    for stage in ("encode", "sample", "decode"):
        done = [frames for name, frames, _ in said if name == stage]
        assert done == sorted(done) and done[-1] == 13
    assert {total for _, _, total in said} == {13}
    said.clear()
    restorer.restore_file(clip, tmp_path / "a.mp4", **SIZE, progress=lambda *words: said.append(words))
    assert ("decode", 13, 13) in said


def test_a_file_resumes_where_it_was_asked_to(restorer, clip, tmp_path, monkeypatch, caplog):
    """Whoever ends it, with the same call; the bytes are those of an undisturbed one."""
    caplog.set_level("INFO")
    monkeypatch.setattr(segmented, "LEAST_KEPT", 4)
    restorer.restore_file(clip, tmp_path / "whole.mp4", **SIZE, seed=3, resume=True)

    def stop(stage, done, total):
        if stage == "decode" and done > 9:
            raise RuntimeError("the caller's own")

    target, began = tmp_path / "b.mp4", []
    for name in ("b.mp4", "other.mp4"):
        with pytest.raises(RuntimeError, match="own"):
            restorer.restore_file(clip, tmp_path / name, **SIZE, seed=3, resume=True, progress=stop)
    assert len(list(tmp_path.glob(".seedvr-*"))) == 2 and not target.exists()
    caplog.clear()
    restorer.restore_file(
        clip, target, **SIZE, seed=3, resume=True, progress=lambda stage, done, _: began.append((stage, done))
    )
    assert "goes on behind the" in caplog.text and dict(reversed(began))["decode"] > 4
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    restorer.restore_file(clip, tmp_path / "other.mp4", **SIZE, seed=4, resume=True)
    assert "seed was 3 and is 4" in caplog.text
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.mp4", "other.mp4", "whole.mp4"]


def test_a_run_can_be_cancelled_and_leaves_nothing(restorer, clip, tmp_path):
    cancel = threading.Event()

    def stop(stage, done, total):
        cancel.set()

    with pytest.raises(seedvr.Cancelled):
        restorer(noise(13), **SIZE, progress=stop, cancel=cancel)
    with pytest.raises(seedvr.Cancelled):
        restorer.restore_file(clip, tmp_path / "a.mp4", **SIZE, cancel=cancel)
    assert list(tmp_path.iterdir()) == []
    stream = restorer.stream(noise(13), **SIZE)
    next(stream)
    with pytest.raises(seedvr.InputError, match="in the middle of another clip"):
        restorer(noise(1), **SIZE)
    stream.close()
    with restorer.live(**SIZE) as live:
        live.push(noise(3))
    assert restorer(noise(1), **SIZE).shape == (1, 32, 48, 3)


def test_results_that_are_no_numbers_are_an_error_of_their_own(weights, clip, tmp_path):
    broken = seedvr.load("seedvr2_tiny", device="cpu", window=9, ckpt_dir=weights, overrides=SMALL)
    next(broken._engine._restorer.infer.dit.parameters()).fill_(torch.nan)
    with pytest.raises(seedvr.NotFiniteError, match="frames: the transformer returned values"):
        broken(noise(2), **SIZE)
    with pytest.raises(seedvr.NotFiniteError, match=r"clip\.mp4: the transformer returned values"):
        broken.restore_file(clip, tmp_path / "a.mp4", **SIZE)
    assert not list(tmp_path.iterdir())


def test_errors_of_callbacks_and_iterators_are_their_owners(restorer):
    def fails(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        restorer(noise(1), **SIZE, progress=fails)
    with pytest.raises(KeyError, match="mine"):
        list(restorer.stream((fails() for _ in range(3)), **SIZE))
    with restorer.live(progress=fails, **SIZE) as live, pytest.raises(KeyError, match="mine"):
        live.push(noise(9))
        live.flush()
    assert restorer(noise(1), **SIZE).shape == (1, 32, 48, 3)


@pytest.mark.parametrize(
    ("frames", "settings", "said"),
    [
        (np.zeros((2, 4, 5), np.uint8), {}, "not known"),
        (np.zeros((1, 8, 8, 3), np.int32), {}, "u8 in 0..255"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "no frames"),
        (np.full((1, 8, 8, 3), 255.0), {}, "divide 0..255 by 255"),
        (np.full((1, 8, 8, 3), np.nan), {}, "floats must lie in 0..1"),
        ("nowhere.mp4", {}, "nowhere.mp4"),
        (3, {}, "type int"),
        (noise(1), {"scale": -1}, "positive"),
        (noise(1), {"height": 5}, "height and width"),
        (noise(1), {"scale": 2, "size": (32, 32)}, "scale and exact"),
        (noise(1), {"strength": 2}, "between 0"),
        (noise(1), {"color_fix": "purple"}, "purple"),
        (noise(1), {"colour": 1}, "no setting 'colour'"),
        (noise(1), {"steps": 0}, "at least 1"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], {}, "one size"),
    ],
)
def test_what_cannot_be_used_is_an_input_error(restorer, frames, settings, said):
    with pytest.raises(seedvr.InputError, match=said) as caught:
        restorer(frames, **settings)
    assert isinstance(caught.value, ValueError)


def test_a_part_of_a_file_and_its_record(restorer, clip, tmp_path, weights):
    part = restorer.restore_file(clip, tmp_path / "part.mp4", **SIZE, frames=(4, 7), seed=3, record=True)
    named = restorer.restore_file(clip, f"{tmp_path}/", **SIZE, start=0.15, frames=3, seed=3)
    assert named.name == "clip_0.15s-3f.mp4" and np.array_equal(read(part), read(named)) and len(read(part)) == 3
    said = json.loads((tmp_path / "part.mp4.json").read_text())
    assert said["result"]["path"] == str(part) and said["result"]["bytes"] == part.stat().st_size
    assert said["settings"]["seed"] == 3 and said["input"]["part"]["first"] == 4 and len(said["weights"]) == 2
    restorer.restore_file(clip, part, **SIZE, frames=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [named.name, part.name]  # no other result's record


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"start": 5, "end": 1}, "5 is not behind|1 is not behind 5"),
        ({"frames": (5, 2)}, "are none"),
        ({"frames": 0}, "at least one frame"),
        ({"frames": "x"}, "neither a number nor two"),
        ({"frames": (1, 2, 3)}, "neither a number nor two"),
        ({"start": "ten"}, "no time such as"),
        ({"start": 1, "frames": (2, 4)}, "give one"),
        ({"start": 99}, "it has 0.52 s; begin earlier"),
    ],
)
def test_parts_that_cannot_be(restorer, clip, tmp_path, part, said):
    with pytest.raises(seedvr.InputError, match=said):
        restorer.restore_file(clip, tmp_path / "a.mp4", **SIZE, **part)
    assert not list(tmp_path.iterdir())


def test_targets_and_sources_that_cannot_be(restorer, clip, tmp_path):
    with pytest.raises(seedvr.InputError, match=r"is a \.mp4 file"):
        restorer.restore_file(clip, tmp_path / "a.avi", **SIZE)
    with pytest.raises(seedvr.InputError, match="no such file"):
        restorer.restore_file(tmp_path / "none.mp4", tmp_path / "a.mp4")
    before = clip.read_bytes()
    with pytest.raises(seedvr.InputError, match="replace the input"):
        restorer.restore_file(clip, clip, **SIZE)
    assert clip.read_bytes() == before and [path.name for path in clip.parent.iterdir()] == [clip.name]
    with pytest.raises(seedvr.InputError, match="frame 1 of the stream has 9x8"):
        list(restorer.stream([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], **SIZE))


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"preset": "seedvr9"}, seedvr.InputError, "choose one of seedvr2_3b"),
        ({"dtype": "int4"}, seedvr.InputError, "int4"),
        ({"vram": 0}, seedvr.InputError, "positive"),
        ({"window": 3}, seedvr.InputError, "too short"),
        ({"overrides": ("dit.model.nothing=1",)}, seedvr.InputError, "nothing"),
        ({"config": "nowhere.yaml"}, seedvr.InputError, r"nowhere\.yaml"),
        ({"checkpoint": "none.safetensors"}, seedvr.WeightsError, "no such file"),
        ({"checkpoint": ROOT / "ckpts/tiny/vae.safetensors"}, seedvr.WeightsError, "--vae_checkpoint"),
        ({"preset": "seedvr2_3b", "ckpt_dir": "none"}, seedvr.WeightsError, "download"),
    ],
)
def test_loading_says_what_is_wrong(settings, kind, said):
    with pytest.raises(kind, match=said) as caught:
        seedvr.load(**{"preset": "seedvr2_tiny", "device": "cpu", **settings})
    assert isinstance(caught.value, FileNotFoundError if kind is seedvr.WeightsError else ValueError)


def test_presets_are_those_of_the_command_line():
    assert "seedvr2_3b" in seedvr.presets() and "seedvr2_tiny" in seedvr.presets()
    assert seedvr.load("seedvr2_tiny", device="cpu").preset == "SeedVR2-tiny"
    with pytest.raises(AttributeError, match="nothing"):
        seedvr.nothing  # noqa: B018


def test_first_frames_of_an_endless_stream(restorer):
    def endless():
        while True:
            yield noise(1)[0]

    stream = restorer.stream(endless(), **SIZE)
    assert len(list(islice(stream, 12))) == 12
    stream.close()


def test_a_folder_of_weights_is_a_model(restorer, weights, tmp_path):
    loaded = seedvr.from_pretrained(weights, device="cpu", window=9, overrides=SMALL)
    assert np.array_equal(loaded(noise(2), **SIZE), restorer(noise(2), **SIZE))
    with pytest.raises(seedvr.WeightsError, match="no weights under a known name"):
        seedvr.from_pretrained(tmp_path)
    for name in ("seedvr2_ema_3b.pth", "seedvr2_ema_7b_fp16.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(seedvr.WeightsError, match="seedvr2_3b and seedvr2_7b"):
        seedvr.from_pretrained(tmp_path)
    with pytest.raises(seedvr.InputError, match="ByteDance-Seed/SeedVR2-7B"):
        seedvr.from_pretrained("somebody/else")


def test_numbered_pictures_are_a_clip_as_for_the_command_line(restorer, tmp_path):
    (tmp_path / "walk").mkdir()
    for k in range(3):
        Image.new("RGB", (32, 24), (60 * k, 90, 60)).save(tmp_path / "walk" / f"{k:03d}.png")
    for source in (tmp_path / "walk", tmp_path / "walk" / "%03d.png"):
        made = restorer.restore_file(source, f"{tmp_path}/made/", **SIZE)
        with open_media(made) as reader:
            assert made.name == "walk.mp4" and len(list(reader)) == 3 and reader.info.frame_rate == 24


def test_every_thread_computes_on_the_restorers_device(restorer, clip, tmp_path, monkeypatch):
    """Kernels are launched on the current device, and a host's worker thread begins with the first one."""
    inside, current, seen = threading.local(), [], []

    @contextmanager
    def entered(device):
        inside.depth = getattr(inside, "depth", 0) + 1
        try:
            yield
        finally:
            inside.depth -= 1

    def computed(*_):
        seen.append(getattr(inside, "depth", 0))

    monkeypatch.setattr(engine, "inside", entered)
    monkeypatch.setattr(current_device, "inside", entered)
    monkeypatch.setattr(engine, "stream_of", lambda device: f"the stream of {threading.current_thread().name}")
    monkeypatch.setattr(
        engine, "enter_stream", lambda stream: current.append((threading.current_thread().name, stream))
    )
    hook = restorer._engine._restorer.infer.vae.register_forward_pre_hook(computed)
    sample = VideoDiffusionInfer.sample
    monkeypatch.setattr(VideoDiffusionInfer, "sample", lambda *args: computed() or sample(*args))
    try:
        restorer(noise(3), **SIZE)
        for _ in restorer.stream(noise(3), **SIZE):
            assert inside.depth == 0, "between results the host's own device is current"
        with restorer.live(**SIZE) as live:
            live.push(noise(3))
            live.flush()
        restorer.restore_file(clip, tmp_path / "it.mp4", **SIZE)
    finally:
        hook.remove()
    assert len(seen) >= 4 and all(depth > 0 for depth in seen)
    assert current == [("seedvr-live", "the stream of MainThread")]
