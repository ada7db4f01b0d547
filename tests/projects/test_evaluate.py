"""The evaluation program and the program that makes evaluation sets: figures, conventions, refusals, stable seeds."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from models.dists import StructureTextureDistance
from models.perceptual import PerceptualDistance
from projects import degradation_picture, degradation_speed, degrade, evaluate, perceptual_weights
from projects.evaluation import frames, measures
from projects.evaluation.bootstrap import interval
from projects.evaluation.vmaf import vmaf
from projects.program import run_program

FRAMES = 3


@pytest.fixture
def truth(tmp_path):
    """One clip of three frames as a folder of PNGs, one picture."""
    folder = tmp_path / "truth"
    (folder / "clip").mkdir(parents=True)
    picture = cv2.resize(skimage.data.astronaut(), (72, 64), interpolation=cv2.INTER_AREA)
    for i in range(FRAMES):
        Image.fromarray(np.roll(picture, 2 * i, axis=1)).save(folder / "clip" / f"{i}.png")
    Image.fromarray(picture[::-1]).save(folder / "still.png")
    return folder


def shifted(source, target, levels, names=None):
    """A copy of a set in which every value is off by `levels`, alternately up and down."""
    for file in sorted(source.rglob("*.png")):
        pixels = np.asarray(Image.open(file)).astype(int)
        sign = np.where(np.indices(pixels.shape).sum(axis=0) % 2, 1, -1)
        inside = np.where((pixels + levels * sign > 255) | (pixels + levels * sign < 0), -sign, sign)
        out = target / file.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + levels * inside).astype(np.uint8)).save(out)


def run_json(tmp_path, *flags) -> dict:
    out = tmp_path / "out.json"
    assert evaluate.main([*map(str, flags), "--json", str(out), "--workers", "1"]) == 0
    return json.loads(out.read_text())


def test_psnr_of_a_known_error_and_the_gain_over_a_baseline(truth, tmp_path, capsys):
    shifted(truth, tmp_path / "good", 2)
    shifted(truth, tmp_path / "bad", 8)
    report = run_json(tmp_path, "--results", tmp_path / "good", "--ground_truth", truth, "--baseline", tmp_path / "bad")
    assert report["mean"]["psnr"] == pytest.approx(20 * np.log10(255 / 2), abs=1e-6)
    assert report["gain"]["psnr"] == pytest.approx(20 * np.log10(4), abs=1e-6)
    assert report["gain"]["ssim"] > 0
    assert [(c["name"], c["frames"]) for c in report["clips"]] == [("clip", FRAMES), ("still", 1)]
    printed = capsys.readouterr().out
    assert "clip" in printed and "mean" in printed and f"{20 * np.log10(255 / 2):.2f}" in printed


def test_figures_are_kept_if_nobody_reads_the_table(truth, tmp_path, monkeypatch):
    end, target = os.pipe()
    os.close(end)
    with open(target, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        report = run_json(tmp_path, "--results", truth, "--ground_truth", truth)
    assert report["mean"]["ssim"] == pytest.approx(1)


def test_equal_clips_score_perfectly(truth, tmp_path):
    report = run_json(tmp_path, "--results", truth, "--ground_truth", truth)
    assert report["mean"]["psnr"] == measures.IDENTICAL_DB and report["mean"]["ssim"] == 1


def test_ssim_is_the_formula_of_wang(truth):
    """Against a plain re-derivation with a Gaussian window of 11 pixels and population statistics."""
    b = np.asarray(Image.open(truth / "still.png"))
    a = cv2.GaussianBlur(b, (5, 5), 1)
    window = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window /= window.sum()
    mean = lambda x: cv2.sepFilter2D(x, -1, window, window)[5:-5, 5:-5]  # noqa: E731
    x, y = a.astype(np.float64), b.astype(np.float64)
    vx, vy, vxy = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2, mean(x * y) - mean(x) * mean(y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
    want = (luminance * (2 * vxy + c2) / (vx + vy + c2)).mean()
    assert measures.frame_scores(a, b, 0)[1] == pytest.approx(want, abs=1e-6)


def test_crop_leaves_out_the_border(truth, tmp_path):
    for file in truth.rglob("*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = 0, 0, 0, 0
        out = tmp_path / "framed" / file.relative_to(truth)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(out)
    flags = ("--results", tmp_path / "framed", "--ground_truth", truth)
    assert run_json(tmp_path, *flags, "--crop", 4)["mean"]["psnr"] == measures.IDENTICAL_DB
    assert run_json(tmp_path, *flags, "--crop", 3)["mean"]["psnr"] < measures.IDENTICAL_DB


def refusal(capsys, *flags) -> str:
    assert run_program(evaluate.main, [*map(str, flags), "--workers", "1"]) == 1
    return capsys.readouterr().err


def test_mismatches_are_refused_with_a_sentence(truth, tmp_path, capsys):
    shifted(truth, tmp_path / "r", 1)
    flags = ("--results", tmp_path / "r", "--ground_truth", truth)
    (tmp_path / "r" / "clip" / "2.png").unlink()
    assert "ends after 2 frames" in refusal(capsys, *flags)
    (tmp_path / "r" / "still.png").unlink()
    assert "no result for still" in refusal(capsys, *flags)
    Image.new("RGB", (32, 32)).save(tmp_path / "r" / "still.png")
    shifted(truth / "clip", tmp_path / "r" / "clip", 1)
    assert "32x32" in refusal(capsys, *flags)
    Image.new("RGB", (32, 32)).save(tmp_path / "r" / "still.bmp")
    assert "one name stands for one clip" in refusal(capsys, *flags)
    assert "not a folder" in refusal(capsys, "--results", tmp_path / "nowhere", "--ground_truth", truth)


def test_other_measures_are_their_formulas(truth):
    """A result that is brighter by 10 in every second frame, against plain arithmetic."""
    b = [np.asarray(Image.open(f)).astype(int) // 2 for f in frames.frame_files(truth / "clip")]
    a = [frame + 10 * (i % 2) for i, frame in enumerate(b)]
    pairs = [(x.astype(np.uint8), y.astype(np.uint8)) for x, y in zip(a, b, strict=True)]
    count, values = measures.Measures.chosen(more=["flicker", "laplacian", "psnr_y", "ssim_y"]).of_clip(pairs)
    assert count == FRAMES and list(values) == ["psnr", "ssim", "psnr_y", "ssim_y", "flicker", "laplacian"]
    assert values["flicker"] == pytest.approx(10) and values["laplacian"] == pytest.approx(1)
    step = 10 * 219 / 255  # of luma, for 10 of grey
    expected = [measures.IDENTICAL_DB, 20 * np.log10(255 / step), measures.IDENTICAL_DB]
    assert values["psnr_y"] == pytest.approx(np.mean(expected), abs=0.01)
    soft = [(cv2.GaussianBlur(x, (5, 5), 1), x) for _, x in pairs]
    assert measures.Measures.chosen(more=["laplacian"]).of_clip(soft)[1]["laplacian"] < 0.5
    _, still = measures.Measures.chosen(more=["flicker"]).of_clip(pairs[:1])
    assert still["flicker"] == 0
    with pytest.raises(ValueError, match="no measure niqe; choose from psnr"):
        measures.Measures.chosen(more=["niqe"])


def test_white_and_black_are_235_and_16_of_luma():
    grey = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    for weights in (measures.BT601, measures.BT709):
        np.testing.assert_allclose(measures.luma(grey, weights), np.stack([np.full((2, 2), v) for v in (16.0, 235.0)]))


def test_a_benchmark_of_sets_is_one_command_and_one_table(truth, tmp_path, capsys):
    """Sets as folders of folders of frames; two methods side by side, the better one in bold."""
    for name in ("SPMCS", "UDM10"):
        (tmp_path / "gt" / name).mkdir(parents=True)
        for clip in ("000", "001"):
            shutil.copytree(truth / "clip", tmp_path / "gt" / name / clip)
    shifted(tmp_path / "gt", tmp_path / "ours", 2)
    shifted(tmp_path / "gt", tmp_path / "theirs", 4)
    both = (tmp_path / "ours", tmp_path / "theirs")
    report = run_json(tmp_path, "--results", *both, "--ground_truth", tmp_path / "gt", "--measures", "flicker")
    ours = report["methods"][str(tmp_path / "ours")]
    assert [clip["name"] for clip in ours["clips"]] == ["SPMCS/000", "SPMCS/001", "UDM10/000", "UDM10/001"]
    assert ours["sets"]["UDM10"]["psnr"] == pytest.approx(20 * np.log10(255 / 2))
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 2 * 3 and table[0].startswith("| set | measure | ")
    good, bad = (f"{20 * np.log10(255 / levels):.2f}" for levels in (2, 4))
    assert f"| SPMCS | PSNR ↑ | **{good}** | {bad} |" in table and "FLICKER ↓" in table[-1]
    run_json(tmp_path, "--results", tmp_path / "ours", "--ground_truth", tmp_path / "gt")
    listed = capsys.readouterr().out
    assert "SPMCS: mean" in listed and "95 % interval of the mean over clips, PSNR" in listed


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = sum(low <= 3 <= high for low, high in (interval(rng.normal(3, 2, 40)) for _ in range(60)))
    assert 50 <= held <= 60 and interval([1.0]) is None and interval([2.0, 2.0]) == (2.0, 2.0)


def test_a_gain_is_judged_clip_by_clip(truth, tmp_path):
    """Clips differ widely, the gain does not: its interval is narrow where the mean's is wide."""
    for number, levels in enumerate((1, 3, 9, 27)):
        shutil.copytree(truth / "clip", tmp_path / "gt" / str(number))
        shifted(tmp_path / "gt" / str(number), tmp_path / "r" / str(number), levels)
        shifted(tmp_path / "gt" / str(number), tmp_path / "base" / str(number), 2 * levels)
    where = ("--results", tmp_path / "r", "--ground_truth", tmp_path / "gt", "--baseline", tmp_path / "base")
    report = run_json(tmp_path, *where)
    width = {name: np.ptp(report[name]["psnr"]) for name in ("intervals", "gain_intervals")}
    assert width["intervals"] > 10 and width["gain_intervals"] < 1e-6
    assert report["gain"]["psnr"] == pytest.approx(20 * np.log10(2))


@pytest.mark.slow
def test_perceptual_measures_come_with_their_weights(truth, tmp_path):
    """Files made of a VGG-16 and a measure's own weights; 0 for equal clips."""
    torch.manual_seed(0)
    for kind, network in (("lpips", PerceptualDistance()), ("dists", StructureTextureDistance())):
        state = network.state_dict()
        vgg = {k: v for k, v in state.items() if k.startswith("features.")} | {"classifier.0.bias": torch.zeros(2)}
        torch.save(vgg, tmp_path / "vgg.pth")
        torch.save({k: v for k, v in state.items() if not k.startswith("features.")}, tmp_path / "own.pth")
        files = ["--vgg16", str(tmp_path / "vgg.pth"), "--measure", str(tmp_path / "own.pth")]
        assert perceptual_weights.main([kind, *files, "--output", str(tmp_path / f"{kind}.safetensors")]) == 0
    shifted(truth, tmp_path / "r", 8)
    weights = ("--lpips_weights", tmp_path / "lpips.safetensors", "--dists_weights", tmp_path / "dists.safetensors")
    far = run_json(tmp_path, "--results", tmp_path / "r", "--ground_truth", truth, *weights)["mean"]
    near = run_json(tmp_path, "--results", truth, "--ground_truth", truth, *weights)["mean"]
    assert list(far) == ["psnr", "ssim", "lpips", "dists"]
    assert near["lpips"] == 0 and abs(near["dists"]) < 1e-5 < far["dists"] and far["lpips"] > 0


def test_vmaf_is_luma_of_both_and_names_what_is_missing(monkeypatch):
    """The package stands in: it is asked for the truth first, in [16, 235], and for no motion in a picture."""
    asked = []

    class Stand(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            asked.append(options)

        def forward(self, reference, distorted):
            asked.append((reference, distorted))
            return torch.tensor([97.0])

    monkeypatch.setitem(sys.modules, "vmaf_torch", SimpleNamespace(VMAF=Stand))
    a, b = np.full((192, 192, 3), 255, np.uint8), np.zeros((192, 192, 3), np.uint8)
    assert measures.Measures.chosen(more=["vmaf"]).of_clip([(a, b)])[1]["vmaf"] == 97
    assert asked[0]["enable_motion"] is False and asked[0]["temporal_pooling"]
    reference, distorted = asked[1]
    assert (
        reference.shape == (1, 1, 192, 192) and reference.max() == 16 and distorted.min().item() == pytest.approx(235)
    )
    with pytest.raises(ValueError, match="192 pixels a side, not 100x100"):
        vmaf(np.zeros((1, 100, 100)), np.zeros((1, 100, 100)))
    monkeypatch.setitem(sys.modules, "vmaf_torch", None)
    with pytest.raises(ValueError, match="pip install vmaf-torch"):
        vmaf(np.zeros((1, 192, 192)), np.zeros((1, 192, 192)))


def test_frames_are_ordered_by_number(tmp_path):
    for i in (10, 9, 1):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"frame{i}.png")
    assert [frame[0, 0, 0] for frame in frames.read_frames(tmp_path)] == [1, 9, 10]


@pytest.fixture
def clips(truth, tmp_path):
    """The truth as a folder that `degrade` reads: a lossless video with odd sides and a picture."""
    pixels = np.stack(list(frames.read_frames(truth / "clip")))[:, :63, :70]
    degrade.write_clip(pixels, tmp_path / "clips", "clip", 25, "mkv")
    (tmp_path / "clips" / "still.png").write_bytes((truth / "still.png").read_bytes())
    return tmp_path / "clips"


def test_ffv1_is_lossless(truth, clips):
    got = np.stack(list(frames.read_frames(clips / "clip.mkv")))
    np.testing.assert_array_equal(got, np.stack(list(frames.read_frames(truth / "clip")))[:, :63, :70])


@pytest.mark.parametrize("clips_as", ["png", "mkv"])
def test_degraded_sets_are_small_stable_and_ready_for_evaluation(clips, tmp_path, clips_as):
    flags = ["--input", str(clips), "--seed", "3", "--clips_as", clips_as]
    lq, cropped = tmp_path / "lq", tmp_path / "gt"
    assert degrade.main([*flags, "--output", str(lq), "--ground_truth", str(cropped)]) == 0
    low = {name: np.stack(list(frames.read_frames(path))) for name, path in frames.find_clips(lq).items()}
    assert low["clip"].shape == (FRAMES, 15, 17, 3) and low["still"].shape == (1, 16, 18, 3)

    report = run_json(tmp_path, "--results", cropped, "--ground_truth", cropped, "--baseline", lq)
    assert report["mean"]["psnr"] == measures.IDENTICAL_DB and 8 < report["baseline"]["mean"]["psnr"] < 40

    (clips / "still.png").unlink()  # a part of the set gets the same
    assert degrade.main([*flags, "--output", str(tmp_path / "part")]) == 0
    part = frames.find_clips(tmp_path / "part")
    np.testing.assert_array_equal(np.stack(list(frames.read_frames(part["clip"]))), low["clip"])


def test_degrade_refuses_with_a_sentence(tmp_path, capsys):
    assert run_program(degrade.main, ["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path)]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_the_picture_shows_every_stage(tmp_path):
    out = tmp_path / "stages.png"
    degradation_picture.main(["--output", str(out)])
    with Image.open(out) as picture:
        stages = 14  # the ground truth and the thirteen entries of a clip's record
        rows = 2 * -(-stages // degradation_picture.COLUMNS)
        height = rows * (degradation_picture.TILE + degradation_picture.LABEL)
        assert picture.size == (degradation_picture.COLUMNS * degradation_picture.TILE, height)
    assert out.stat().st_size < 400_000


def test_the_speed_is_printed(capsys):
    flags = ["--workers", "1", "--shape", "2", "64", "64", "--count", "3"]
    degradation_speed.main(flags)
    assert "1 processes, 2 frames of 64x64" in capsys.readouterr().out
