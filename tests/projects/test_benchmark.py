"""The benchmark runs the pipeline on a CPU, alone and on several ranks, and counts what the derivation counts."""

import json

import pytest
import torch

from common.config import create_object, load_config
from common.distributed.parallel import Parallel
from common.distributed.process import Process, process_group
from data.media import open_media
from projects import benchmark
from projects.benchmarking import convolutions
from projects.benchmarking.convolutions import convolution_table, measure_convolutions
from projects.benchmarking.counting import sliced_vae_flops
from projects.benchmarking.end_to_end import end_to_end, end_to_end_table
from projects.benchmarking.footage import write_inputs
from projects.benchmarking.kernels import kernel_table, measure_kernels
from projects.benchmarking.pipeline import NoiseClip, Pipeline
from projects.benchmarking.profiling import Span, idle_table, idle_times
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.cli import main as command
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from tests.parallel.ranks import run_ranks

SMALL = ["--preset", "seedvr2_tiny", "--res_h", "32", "--res_w", "48", "--frames", "5", "--device", "cpu"]
SMALL += ["--random_weights"]


@pytest.fixture(scope="module")
def config():
    return load_config("configs_3b/main.yaml")


def test_tiny_preset_on_a_cpu(tmp_path, capsys):
    path = tmp_path / "run.json"
    assert benchmark.main([*SMALL, "--runs", "1", "--warm_up", "0", "--json", str(path), "--input", "16", "24"]) == 0
    result, said = json.loads(path.read_text()), capsys.readouterr().out
    assert set(result["stages"]) == {"encode", "transformer", "decode", "whole"}
    for row in result["stages"].values():
        assert row["seconds"] > 0 and row["sent"] == {}
        if "tflop" in row:
            assert row["tflop_s"] == pytest.approx(row["tflop"] / row["seconds"])
    assert result["known"]["gemm_tflops"] > 0 and result["predicted_gib"]["decode"] > 0
    assert "predicted peak" in said and "sum " in said


@pytest.mark.slow
def test_flags_set_the_schedule_and_distances_are_those_of_rounding(tmp_path, capsys):
    path = tmp_path / "run.json"
    flags = ["--quick", "--winograd", "4", "--slice_frames", "4", "--distance", "--json", str(path)]
    size = ["--res_h", "128", "--res_w", "128", "--warm_up", "0"]
    assert benchmark.main([*SMALL, *flags, *size]) == 0
    result = json.loads(path.read_text())
    assert "slices of 4 frames; Winograd F(4, 3)" in result["plan"]
    ours, plain = (result["distances"][name] for name in (
        "this run to float32, reference path", "reference path in its dtype to float32"))  # fmt: skip
    assert 0 < ours["latents"] < 1e-4 and ours["levels"] < 0.05
    assert plain == {"latents": 0, "levels": 0}, "in float32 the reference path is the reference"


@pytest.mark.parallel
def test_two_ranks_share_a_clip_and_say_what_they_sent(tmp_path):
    args = benchmark.parse([*SMALL, "--sp_size", "2", "--quick", "--warm_up", "0", "--distance"])

    def work(process: Process) -> None:
        result = benchmark.measure(args, Parallel(process, args.sp_size))
        if process.is_leader:
            (tmp_path / "run.json").write_text(json.dumps(result))

    run_ranks(2, work)
    result = json.loads((tmp_path / "run.json").read_text())
    for stage in ("encode", "decode"):
        sent = result["stages"][stage]["sent"]
        assert sent["rows of neighbours"] > 0 and sent["keys and values"] > 0
        assert len(result["stages"][stage]["peak_gib"]) == 2
    alone = result["distances"]["this run to one rank"]
    assert alone["latents"] < 1e-5 and alone["levels"] < 0.01
    assert "rows of neighbours" in benchmark.table(result)


def test_stages_by_themselves_make_what_they_make_in_one_go(tiny_restorer):
    clip = NoiseClip(6, 24, 40)
    pipeline = Pipeline(tiny_restorer, clip, tiny_restorer.apply_plan(clip.info), keep_result=True)
    pipeline.whole()
    whole = pipeline.result
    for stage in (pipeline.encode, pipeline.transformer, pipeline.decode):
        stage()
    assert whole.shape == (6, 3, *tiny_restorer.geometry.output_size(24, 40))
    assert torch.equal(pipeline.result, whole)


def test_end_to_end_runs_the_command_and_its_numbers_add_up(tmp_path):
    flags = [*SMALL, "--input", "16", "24", "--end_to_end", "--files", "2", "--strength", "0.5"]
    with process_group("cpu") as process:
        result = end_to_end(benchmark.parse(flags), process, tmp_path)
    typed = ["--video_path", tmp_path / "inputs", "--output_dir", tmp_path / "own", "--res_h", 32, "--res_w", 48]
    assert command(SEEDVR2_TINY, [*map(str, typed), "--strength", "0.5", "--random_weights", "--device", "cpu"]) == 0
    for name in ("000.mp4", "001.mp4"):
        own = (tmp_path / "own" / name).read_bytes()
        assert (tmp_path / "cold" / name).read_bytes() == own == (tmp_path / "warm" / name).read_bytes()
    for run in (result["cold"], result["warm"]):
        assert [file["name"] for file in run["files"]] == ["000.mp4", "001.mp4"]
        assert 0 < run["loading"] < run["first_result"] < run["seconds"] and run["peak_gib"] > 0
        assert run["between_results"] == pytest.approx(run["seconds"] - run["first_result"])
        for file in run["files"]:
            waits = {name: file[name] for name in ("reader", "writer", "frames", "end")}
            assert all(0 <= seconds <= file["seconds"] for seconds in waits.values()) and waits["frames"] > 0
            assert waits["reader"] + waits["writer"] + waits["end"] <= file["seconds"]
    assert result["device_busy"] is None, "a CPU is not profiled"
    lines = end_to_end_table({**result, "imports": None}, networks=result["warm"]["between_results"] / 2).splitlines()
    assert [line.split()[0] for line in lines[3:5]] == ["cold", "warm"] and lines[5].endswith("2.00 times as long")


@pytest.mark.parametrize("wrong", [["--winograd", "4"], ["--reference_path"], ["--files", "0"]])
def test_end_to_end_refuses_what_the_command_cannot_do(wrong, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse([*SMALL, "--end_to_end", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_made_up_footage_has_the_asked_size_and_moves(tmp_path):
    clip, other = write_inputs(tmp_path, 2, 3, (32, 48))
    with open_media(clip) as reader, open_media(other) as second:
        frames, others = [frame.pixels.float() for frame in reader], [frame.pixels.float() for frame in second]
    assert len(frames) == 3 and frames[0].shape == (3, 32, 48)
    assert (frames[0] - frames[1]).abs().mean() > 0.5 and (frames[0] - others[0]).abs().mean() > 10
    assert [path.suffix for path in write_inputs(tmp_path, 1, 1, (32, 48))] == [".png"]


@pytest.fixture
def tiny_restorer():
    with process_group("cpu") as process:
        yield build(SEEDVR2_TINY, Request(res=(32, 48)), Parallel(process))


def test_traffic_is_counted_without_running(capsys):
    assert benchmark.main(["--preset", "seedvr2_3b", "--frames", "9", "--count_traffic", "2", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 ranks") and lines[1].startswith("8 ranks")


def test_a_profile_has_a_table_for_every_stage(tmp_path):
    path = tmp_path / "profile.txt"
    assert benchmark.main([*SMALL, "--quick", "--warm_up", "0", "--profile", str(path)]) == 0
    tables = path.read_text()
    assert all(f"== {name}" in tables for name in ("encode", "transformer", "decode"))
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
    longer, shorter = (sliced_vae_flops(config.vae.model, frames, 720, 1280) for frames in (9, 5))
    assert (longer["encode"] - shorter["encode"]) / 4e12 == pytest.approx(8.33, rel=0.02)
    assert (longer["decode"] - shorter["decode"]) / 4e12 == pytest.approx(17.16, rel=0.02)


def test_transformer_count_is_linear_layers_and_windows():
    with torch.device("meta"):
        dit = create_object(load_config("configs_tiny/main.yaml").dit.model)
    one, two = (transformer_flops(dit.config, sizes, [4] * len(sizes)) for sizes in ([(1, 12, 12)], [(1, 12, 12)] * 2))
    assert two == 2 * one  # samples of a batch do not attend to each other
    four = transformer_flops(dit.config, [(1, 24, 24)], [4])
    assert 3.5 < four / one < 16.5  # between linear in the tokens and quadratic


def test_kernel_table_has_a_row_a_kernel():
    row = {"name": "a", "size": "4x4", "own_ms": 1.0, "plain_ms": 2.0, "tb_s": 3.0, "tflop_s": 0.0}
    assert "2.00" in kernel_table([row]).splitlines()[1]


def test_every_kernel_is_timed_beside_its_reference():
    rows = measure_kernels(torch.device("cpu"))
    assert {"GroupNorm + SiLU", "norm, SiLU, transform", "sum of products, statistics"} <= {row["name"] for row in rows}
    assert len(kernel_table(rows).splitlines()) == len(rows) + 1


def test_ways_to_call_a_convolution_are_timed(monkeypatch):
    monkeypatch.setattr(convolutions, "AT_LEAST", 0.0)
    rows = measure_convolutions(torch.device("cpu"))
    assert {row["variant"] for row in rows} == {
        "3d T=4",
        "3d T=4, cudnn.benchmark",
        "3d T=2",
        "3d T=1",
        "F(4,3)",
        "F(4,3), cudnn.benchmark",
        "F(2,3)",
    }
    for layer in {row["layer"] for row in rows}:  # the speed is that of the plain variant's operations, whatever ran
        done = [row["ms"] * row["tflop_s"] for row in rows if row["layer"] == layer]
        assert max(done) == pytest.approx(min(done), rel=1e-6)
    assert len(convolution_table(rows).splitlines()) == len(rows) + 1
