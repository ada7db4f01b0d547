"""The benchmark runs on a CPU, counts what the derivation counts, and plans memory as measured."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from projects.video_diffusion_sr.memory_plan import MemoryPlan, Workload, plan, predict, weight_bytes
from projects.video_diffusion_sr.memory_prediction import carried_gib, working_gib

from common.config import load_config
from models.video_vae_v3.modules.fold import prepare_inference
from projects import benchmark
from projects.benchmarking.convolutions import convolution_table, measure_convolutions
from projects.benchmarking.counting import dit_flops, meta_network, vae_flops
from projects.benchmarking.kernels import kernel_table
from projects.benchmarking.profiling import Span, idle_table, idle_times


@pytest.fixture(scope="module")
def config():
    return load_config("configs_3b/main.yaml")


def workload_of(preset):
    """The released networks without data, in bfloat16, as a function of a clip's sizes."""
    config = load_config(f"configs_{preset}/main.yaml")
    vae, dit = meta_network(config.vae.model), meta_network(config.dit.model).bfloat16()
    prepare_inference(vae)
    vae.bfloat16().set_causal_slicing(4)
    weights = weight_bytes(dit), weight_bytes(vae)
    return lambda *clip, **more: Workload(vae, dit.config, *weights, *clip, streamed=True, **more)


@pytest.fixture(scope="module")
def networks():
    return cache(workload_of)


@pytest.fixture(scope="module")
def workload(networks):
    return networks("3b")


def test_tiny_preset_on_a_cpu(tmp_path, capsys):
    sizes = ["--preset", "seedvr2_tiny", "--res_h", "32", "--res_w", "32", "--frames", "5", "--device", "cpu"]
    assert benchmark.main([*sizes, "--random_weights", "--quick", "--json", str(tmp_path / "run.json")]) == 0
    result = json.loads((tmp_path / "run.json").read_text())
    stages = result["stages"]
    assert set(stages) == {"encode", "transformer", "decode", "finish", "whole"}
    parts = [stages[name]["seconds"] for name in ("encode", "transformer", "decode")]
    assert stages["whole"]["seconds"] == pytest.approx(sum(parts))
    for row in stages.values():
        if "tflop" in row:
            assert row["tflop_s"] == pytest.approx(row["tflop"] / row["seconds"])
    assert result["known"]["gemm_tflops"] > 0
    assert "predicted peak" in capsys.readouterr().out


def test_a_profile_has_a_table_for_every_stage(tmp_path):
    sizes = ["--preset", "seedvr2_tiny", "--res_h", "32", "--res_w", "32", "--frames", "5", "--device", "cpu"]
    path = tmp_path / "profile.txt"
    assert benchmark.main([*sizes, "--random_weights", "--quick", "--stages", "decode", "--profile", str(path)]) == 0
    tables = path.read_text()
    assert all(f"== {name}" in tables for name in ("encode", "transformer", "decode", "finish"))
    assert "conv" in tables and "device busy" not in tables  # a CPU waits for nobody


def test_idle_times_count_the_device_once_and_name_the_gaps():
    """a |--|   b starts in a and ends after it, then 3 us of nothing, c; c and d side by side; 2 us, c again."""
    spans = [Span(13, 14, "d"), Span(0, 4, "a"), Span(12, 15, "c"), Span(3, 9, "b"), Span(17, 20, "c")]
    times = idle_times(spans)
    assert (times.busy, times.idle) == (9 + 3 + 3, 5)
    assert times.gaps == [("b -> c", 1, 3.0), ("c -> c", 1, 2.0)]
    assert idle_table(times).splitlines()[0] == "device busy 0.0 ms, idle 0.0 ms (25.0%)"
    assert idle_times([]).gaps == []


def test_counts_match_the_derivation(config):
    """TFLOP a frame at 720p, by hand from the architecture: 8.33 to encode, 17.16 to decode folded, 5.4 for the 3B."""
    longer, shorter = (vae_flops(config.vae.model, frames, 720, 1280) for frames in (9, 5))
    assert (longer["encode"] - shorter["encode"]) / 4e12 == pytest.approx(8.33, rel=0.02)
    assert (longer["decode"] - shorter["decode"]) / 4e12 == pytest.approx(17.16, rel=0.02)


def test_transformer_count_is_linear_layers_and_windows():
    model = load_config("configs_tiny/main.yaml").dit.model
    one, four = (dit_flops(model, (1, 2 * side, 2 * side), 4) for side in (6, 12))
    assert 3.5 < four / one < 16.5


FOURS = MemoryPlan()
ONE_BY_ONE = replace(FOURS, fours=False)
ONE_AT_A_TIME = replace(ONE_BY_ONE, offload="models", prefetch=True)
LEAN = replace(ONE_BY_ONE, lean=True)
FILTERS = 0.35  # GiB of weights that are predicted, and were not there yet
MEASURED = [  # preset, clip, frames of a slice, way; peaks of encode, transformer and decode
    ("3b", (97, 720, 1280), 4, ONE_BY_ONE, (13.11, 12.30, 17.01)),
    ("3b", (97, 720, 1280), 8, ONE_BY_ONE, (13.27, 12.30, 17.08)),
    ("3b", (97, 720, 1280), 16, ONE_BY_ONE, (14.27, 12.30, 17.22)),
    ("3b", (97, 720, 1280), 4, replace(ONE_BY_ONE, rolls="full"), (13.93, 12.30, 17.65)),
    ("3b", (97, 720, 1280), 4, LEAN, (12.08, 12.30, 15.25)),
    ("3b", (97, 720, 1280), 4, ONE_AT_A_TIME, (6.74, 11.38, 10.64)),
    ("3b", (97, 1088, 1920), 4, ONE_BY_ONE, (20.20, 18.56, 29.25)),
    ("3b", (97, 1088, 1920), 16, ONE_BY_ONE, (23.06, 18.56, 29.72)),
    ("3b", (21, 2160, 3840), 4, replace(LEAN, offload="models"), (49.87, 17.37, 71.81)),
    ("3b", (1, 720, 1280), 4, ONE_BY_ONE, (8.45, 7.54, 8.62)),
    ("7b", (25, 720, 1280), 4, ONE_BY_ONE, (22.07, 18.02, 25.95)),
    ("3b", (97, 720, 1280), 8, FOURS, (14.96, 12.65, 17.76)),
    ("3b", (97, 720, 1280), 4, replace(FOURS, offload="models", prefetch=True), (8.33, 11.38, 11.08)),
    ("3b", (97, 1088, 1920), 8, FOURS, (22.97, 18.92, 29.07)),
    ("3b", (1, 720, 1280), 4, FOURS, (8.80, 7.89, 8.98)),
    ("7b", (25, 720, 1280), 8, FOURS, (23.92, 18.37, 26.71)),
]


@pytest.mark.parametrize(("preset", "clip", "frames", "way", "measured"), MEASURED)
def test_predicted_peaks_are_those_measured(networks, preset, clip, frames, way, measured):
    """In bfloat16, GiB, by fours on one H100, the rest on one H200: not too little, and at most 12% too much."""
    predicted = predict(way, networks(preset)(*clip, slice_frames=frames))
    for stage, gib in zip(("encode", "transformer", "decode"), measured, strict=True):
        if not way.fours and (stage != "transformer" or way.offload == "none"):
            gib += FILTERS
        assert gib <= predicted[stage] < 1.12 * gib, stage


@pytest.mark.parametrize("clip", [(97, 720, 1280), (21, 2160, 3840), (1, 720, 1280)])
def test_a_plan_keeps_to_its_bound(workload, clip):
    work, previous = workload(*clip), None
    for vram in (200, 80, 40, 24, 18, 12):
        way = plan(vram, work)
        assert way.predicted_peak_gib <= vram
        assert previous is None or way.predicted_peak_gib <= previous + 1e-6 or previous <= vram
        previous = way.predicted_peak_gib
    assert plan(200, work).offload == "none" and plan(200, work).tile is None


def test_slices_are_as_long_as_fours_need(networks):
    """At 4 frames a slice, the level whose pictures come half as often would have two at once."""
    of = networks("3b")
    assert plan(200, of(97, 720, 1280)).slice_frames == 8
    for frames, usual in ((97, 16), (5, 4), (1, 4)):
        assert plan(200, of(frames, 720, 1280, slice_frames=usual)).slice_frames is None
    assert plan(200, of(97, 720, 1280, ranks=2)).slice_frames is None


def test_4k_in_80_gib_needs_no_tiles(workload):
    way = plan(80, workload(21, 2160, 3840))
    assert way.tile is None and way.lean and way.conv_max_mem is None


def test_which_pictures_roll_is_a_matter_of_memory(workload):
    """Only those of full size: less is carried, and more goes at once through the half-size levels."""
    work = workload(97, 720, 1280)
    carried, working = (
        [of(work, replace(ONE_BY_ONE, rolls=rolls), "decode") for rolls in ("large", "full", "off")]
        for of in (carried_gib, working_gib)
    )
    assert carried == sorted(carried, reverse=True) and working == sorted(working)
    assert carried_gib(work, LEAN, "decode") == carried[-1] and working[0] < working_gib(work, LEAN, "decode")


def test_what_fits_nowhere_is_refused_with_the_least_that_would_do(workload):
    with pytest.raises(ValueError, match="smallest way needs"):
        plan(1.5, workload(97, 720, 1280))


def test_kernel_table_has_a_row_a_kernel():
    row = {"name": "a", "size": "4x4", "own_ms": 1.0, "plain_ms": 2.0, "tb_s": 3.0, "tflop_s": 0.0}
    assert "2.00" in kernel_table([row]).splitlines()[1]


def test_convolutions_called_in_turns_are_timed():
    rows = measure_convolutions(torch.device("cpu"))
    assert {row["way"] for row in rows} >= {"3d T=4", "3d T=1", "ring", "ring, cudnn.benchmark", "fours"}
    assert all(row["ms"] > 0 and row["tflop_s"] > 0 for row in rows)
    assert len(convolution_table(rows).splitlines()) == len(rows) + 1
