"""How fast and how large: a clip through the stages that `restore_clip` runs, for any preset, size and number of GPUs.

python projects/benchmark.py --preset seedvr2_tiny --res_h 128 --res_w 192 --frames 9 --random_weights
python projects/benchmark.py --preset seedvr2_3b --res_h 720 --res_w 1280 --frames 97 --random_weights --json run.json
torchrun --nproc-per-node=2 projects/benchmark.py --preset seedvr2_3b --frames 97 --random_weights --sp_size 2
python projects/benchmark.py --preset seedvr2_3b --input 360 640 --frames 97 --random_weights --end_to_end --files 4
"""

import time

STARTED = time.perf_counter()  # before PyTorch is imported, since a user waits for the import too

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from common.config import load_config
from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.kernels.repeatable import repeatable
from common.kernels.triton_support import Kernels, kernels
from common.logger import set_up_logging
from data.video.framing import latent_frames
from models.video_vae_v3.modules.schedule import DIRECT, F23, F43, default_schedule, filled_slice
from projects.benchmarking.counting import sliced_vae_flops
from projects.benchmarking.end_to_end import end_to_end, end_to_end_table
from projects.benchmarking.flags import add_measuring, write_measured
from projects.benchmarking.pipeline import STAGES, NoiseClip, Pipeline, time_stages
from projects.benchmarking.profiling import profile
from projects.benchmarking.timing import known_operations
from projects.program import add_device, new_parser, run_program
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.communication import TEXT_TOKENS, describe
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.memory.budget import clip_of, make_budget, priced, read_budget
from projects.video_diffusion_sr.memory.plan import MemoryPlan, unplanned
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.request import DTYPES, ROOT, Request
from projects.video_diffusion_sr.settings import RunSettings, resolve

PEAK_TFLOPS = 790.0  # speed of a large bf16 matrix product on one H200, with which stages are compared


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    clip = parser.add_argument_group("what is restored")
    clip.add_argument("--preset", choices=sorted(PRESETS), default="seedvr2_3b")
    clip.add_argument("--res_h", type=int, default=720, help="output height, a multiple of 16")
    clip.add_argument("--res_w", type=int, default=1280, help="output width, a multiple of 16")
    clip.add_argument("--frames", type=int, default=97, help="4n + 1; 1 is an image")
    clip.add_argument(
        "--input", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the input; default: as the output"
    )
    clip.add_argument("--random_weights", action="store_true", help="random weights of the real shapes, no checkpoint")
    clip.add_argument("--ckpt_dir", type=to_path, default=ROOT / "ckpts")
    how = parser.add_argument_group("how it is run (default: as the inference scripts would)")
    how.add_argument("--dtype", choices=sorted(DTYPES), help="default: bfloat16 on CUDA, float32 on a CPU")
    add_device(how)
    how.add_argument("--sp_size", type=int, default=1, help="GPUs that share the clip; start them with torchrun")
    how.add_argument("--shard_weights", action="store_true", help="spread the transformer's weights over them")
    how.add_argument("--vram", type=float, help="GiB of device memory to stay within")
    how.add_argument("--slice_frames", type=int, help="frames that go through the VAE at once, after the first")
    how.add_argument(
        "--winograd", type=int, choices=(DIRECT, F23, F43), help="m of F(m, 3) at the VAE's large levels; 0: none"
    )
    how.add_argument("--kernels", choices=("auto", "plain"), default="auto", help="plain: no own ones")
    how.add_argument("--reference_path", action="store_true", help="plain kernels, and a VAE without derived weights")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--runs", type=int, default=3, help="runs whose median is reported")
    add_measuring(what, "runs", warm_up=1)
    what.add_argument("--quick", action="store_true", help="one timed run, and not all stages in one go as well")
    what.add_argument(
        "--distance", action="store_true", help="also how far the result is from one rank's and from float32"
    )
    what.add_argument("--each_kernel", action="store_true", help="also time each own kernel against its reference")
    what.add_argument("--each_convolution", action="store_true", help="also time the ways to call a convolution")
    what.add_argument(
        "--count_traffic", type=int, nargs="+", metavar="RANKS", help="only count what so many ranks would send"
    )
    add_end_to_end(parser)
    args = parser.parse_args(arguments)
    if args.end_to_end and (args.slice_frames is not None or args.winograd is not None or args.reference_path):
        parser.error("--end_to_end runs what the inference scripts run: leave --slice_frames, --winograd and "
                     "--reference_path out")  # fmt: skip
    if args.files < 1:
        parser.error(f"--files {args.files}: a folder needs at least one")
    return args


def add_end_to_end(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the run from files to files."""
    files = parser.add_argument_group("files in, files out")
    files.add_argument(
        "--end_to_end", action="store_true",
        help="also what a user waits for: a folder of made-up footage (pictures with --frames 1) through what the "
        "inference scripts run, cold (the first run of this process) and warm; one process",
    )  # fmt: skip
    files.add_argument("--files", type=int, default=3, help="in the folder (%(default)s)")
    files.add_argument("--no_overlap", action="store_true", help="read, compute and write one after the other")
    files.add_argument(
        "--strength", type=float,
        help="as in the inference scripts; default: 1, but 0 with --random_weights, whose output is noise that does "
        "not compress like footage: with 0 everything is computed, and the resized input is written",
    )  # fmt: skip


def read_request(args: argparse.Namespace) -> Request:
    return Request(
        res=(args.res_h, args.res_w),
        dtype=args.dtype,
        window_frames=None if args.end_to_end else 0,  # 0: the whole clip at once, whatever its length
        ckpt_dir=args.ckpt_dir,
        shard_weights=args.shard_weights,
        vram=args.vram,
        random_weights=args.random_weights,
    )


def choose(args: argparse.Namespace, settings: RunSettings, parallel: Parallel, clip: NoiseClip) -> MemoryPlan:
    """The plan that the inference scripts would choose, with its predicted memory.

    With --slice_frames or --winograd, it is a plan with their schedule and both networks on the device.
    """
    given = clip_of(clip.info)
    given = replace(given, repeated=int(given.still))  # the benchmark runs the same picture many times
    budget = read_budget(settings, parallel)
    work = (budget or make_budget(settings, parallel, 0.0)).work(given)
    if args.slice_frames is not None or args.winograd is not None:
        winograd = F43 if args.winograd is None else args.winograd
        size = work.vae.levels, work.height, work.width
        frames = args.slice_frames or (filled_slice(*size, winograd) if winograd else work.slice_frames)
        return priced(MemoryPlan(default_schedule(*size, frames, winograd, single_frame=work.still)), work)
    if budget is None:
        return priced(unplanned(settings, work.height, work.width, work.still), work)
    return budget.plan(given)


def measure(args: argparse.Namespace, parallel: Parallel) -> dict[str, Any]:
    """Measure all numbers of the table: seconds, GiB, bytes, TFLOP/s, and fractions of `PEAK_TFLOPS`."""
    preset, request, device = PRESETS[args.preset], read_request(args), parallel.process.device
    settings = resolve(preset, request, device)
    clip = NoiseClip(args.frames, *(args.input or (args.res_h, args.res_w)))
    plan = choose(args, settings, parallel, clip)
    restorer = load(settings, parallel, [plan], fold=not args.reference_path)
    pipeline = Pipeline(restorer, clip, plan)
    result: dict[str, Any] = {
        "plan": plan.describe(),
        "predicted_gib": dict(plan.predicted),
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "torch": torch.__version__,
        "ranks": parallel.size,
    }
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name(device)
    result["known"] = known_operations(device, settings.dtype)
    times = time_stages(pipeline, 1 if args.quick else args.runs, args.warm_up, whole=not args.quick)
    result["stages"] = times
    add_operations(times, settings, clip, parallel.size)
    if args.profile:
        stages = {name: getattr(pipeline, name) for name in STAGES if name != "whole"}
        tables = profile(stages, device)
        if parallel.process.is_leader:
            args.profile.write_text(tables)
    if args.distance:
        from projects.benchmarking.distance import distances, results_of

        results = results_of(pipeline)
        del pipeline, restorer, settings
        result["distances"] = distances(results, preset, request, parallel, clip)
    return result


def add_operations(stages: dict[str, dict[str, Any]], settings: RunSettings, clip: NoiseClip, ranks: int) -> None:
    """Add to the times of each stage its TFLOP, its TFLOP/s per rank, and the fraction of `PEAK_TFLOPS` they are."""
    frames, size = clip.frames, settings.geometry.network_size(clip.info.height, clip.info.width)
    vae = settings.vae
    latents = latent_frames(frames, vae.temporal_factor), *(n // vae.spatial_factor for n in size)
    counts = sliced_vae_flops(settings.config.vae.model, frames, *size)
    once = transformer_flops(settings.dit.config, [latents], [TEXT_TOKENS])
    counts["transformer"] = once * settings.sampling.steps * settings.texts
    for name, count in counts.items():
        stages[name]["tflop"] = count / 1e12
        stages[name]["tflop_s"] = count / 1e12 / ranks / stages[name]["seconds"]
        stages[name]["share_of_floor"] = stages[name]["tflop_s"] / PEAK_TFLOPS


def table(result: dict[str, Any]) -> str:
    """Format the result as text, with one row per stage."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak GiB of each rank':>22} {'TFLOP':>9} {'TFLOP/s':>8} {'of floor':>8}"]
    for name, row in result["stages"].items():
        peaks = " ".join(f"{gib:.2f}" for gib in row["peak_gib"])
        line = f"{name:<12} {row['seconds']:9.3f} {peaks:>22}"
        if "tflop" in row:
            line += f" {row['tflop']:9.2f} {row['tflop_s']:8.2f} {row['share_of_floor']:8.1%}"
        lines.append(line)
    stages = [row for name, row in result["stages"].items() if name != "whole"]
    lines.append(f"{'sum':<12} {sum(row['seconds'] for row in stages):9.3f}")
    for name, row in result["stages"].items():
        if row["sent"]:
            sent = ", ".join(f"{purpose} {count / 1e9:.4f}" for purpose, count in row["sent"].items())
            lines.append(f"GB sent by the first rank, {name}: {sent}")
    for name, distance in result.get("distances", {}).items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value:.5f}" for key, value in distance.items()))
    known = ", ".join(f"{name} {value:.3g}" for name, value in result["known"].items())
    lines += [f"plan: {result['plan']}", f"known operations in this run: {known}"]
    if "end_to_end" in result:
        lines.append(end_to_end_table(result["end_to_end"], sum(row["seconds"] for row in stages)))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, started: float | None = None) -> int:
    """Run the benchmark. `started`: its start by `time.perf_counter`, if the time of imports is measured too."""
    imports = None if started is None else time.perf_counter() - started
    args = parse(arguments)
    set_up_logging(False)
    if args.count_traffic:
        config = load_config(ROOT / PRESETS[args.preset].config)
        print(describe(config, args.frames, (args.res_h, args.res_w), args.count_traffic))
        return 0
    chosen = Kernels.PLAIN if args.reference_path else Kernels(args.kernels)
    with process_group(args.device) as process, repeatable(), kernels(chosen):
        files = {}
        if args.end_to_end:  # first, because this process is still cold
            with tempfile.TemporaryDirectory() as folder:
                files = {"end_to_end": {**end_to_end(args, process, Path(folder)), "imports": imports}}
        result = {**measure(args, Parallel(process, args.sp_size)), **files}
        if process.is_leader:
            print(table(result))
            time_operations(args, process.device, result)
            write_measured(args, result)
    return 0


def time_operations(args: argparse.Namespace, device: torch.device, result: dict[str, Any]) -> None:
    """Time single kernels and convolutions, print the tables, and add them to the result."""
    if args.each_kernel:
        from projects.benchmarking.kernels import kernel_table, measure_kernels

        result["kernels"] = measure_kernels(device)
        print(kernel_table(result["kernels"]))
    if args.each_convolution:
        from projects.benchmarking.convolutions import convolution_table, measure_convolutions

        result["convolutions"] = measure_convolutions(device)
        print(convolution_table(result["convolutions"]))


if __name__ == "__main__":
    sys.exit(run_program(partial(main, started=STARTED)))
