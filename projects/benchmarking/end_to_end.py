"""Times the restoration of a folder from files to files, as a user waits for it, cold and warm.

It runs the command's own functions, `cli.prepare` and `restore_all`, with the flags that a user would type.
"""

import argparse
import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from common.crashes import History
from common.distributed.process import Process
from projects.benchmarking.footage import write_inputs
from projects.benchmarking.profiling import busy_share
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.run_order import Job, restore_all

INPUTS = "inputs"
WAITS = ("reader", "writer", "frames", "end")  # fields of `report.Waits`


def end_to_end(args: argparse.Namespace, process: Process, folder: Path) -> dict[str, Any]:
    """Make inputs in `folder`, restore them twice and, on a GPU, a third time under the profiler.

    Args:
        args: the benchmark's flags.
        folder: an empty folder.
    Returns:
        "cold", "warm": the times of the two runs, see `run_folder`.
        "device_busy": fraction of the time between the device's first and last operation in which it worked; None on a
        CPU.
    Raises:
        ValueError: there are several processes.
        RuntimeError: a file failed; a log line says why.
    """
    if process.world > 1:
        raise ValueError(f"--end_to_end runs in one process, this job has {process.world}: leave torchrun out")
    inputs = folder / INPUTS
    inputs.mkdir()
    write_inputs(inputs, args.files, args.frames, tuple(args.input or (args.res_h, args.res_w)))
    runs = {name: run_folder(args, process, inputs, folder / name) for name in ("cold", "warm")}
    busy = None
    if process.device.type == "cuda":
        paths, job, in_flight = prepared(args, process, inputs, folder / "profiled")
        busy = busy_share(lambda: list(restore_all(paths, job, in_flight)), process.device)
        del job
        forget(process.device)
    return {**runs, "device_busy": busy}


def command_line(args: argparse.Namespace, inputs: Path, output: Path) -> list[str]:
    """The inference script's flags that correspond to the benchmark's."""
    flags = {
        "video_path": inputs, "output_dir": output, "ckpt_dir": args.ckpt_dir, "res_h": args.res_h,
        "res_w": args.res_w, "device": args.device, "dtype": args.dtype, "vram": args.vram, "strength": strength(args),
    }  # fmt: skip
    switches = ["random_weights", "no_overlap"]
    given = [part for name, value in flags.items() if value is not None for part in (f"--{name}", str(value))]
    return given + [f"--{name}" for name in switches if getattr(args, name)]


def strength(args: argparse.Namespace) -> float:
    """The value of `--strength`.

    With random weights the default is 0, so that the codec gets the resized input: the networks would return noise,
    which is not typical for an encoder.
    """
    if args.strength is not None:
        return args.strength
    return 0.0 if args.random_weights else 1.0


def prepared(
    args: argparse.Namespace, process: Process, inputs: Path, output: Path
) -> tuple[Iterable[Path], Job, bool]:
    """The arguments of `restore_all` for the files of a folder; RuntimeError if a file cannot be restored."""
    preset = PRESETS[args.preset]
    typed = parser(preset).parse_args(command_line(args, inputs, output))
    failed, total, work = cli.prepare(preset, cli.read_request(typed), typed, process, History())
    if failed or work is None:
        raise RuntimeError(f"{failed} of {total} files cannot be restored; see above")
    return work


def run_folder(args: argparse.Namespace, process: Process, inputs: Path, output: Path) -> dict[str, Any]:
    """Restore every file of a folder, beginning with the parsing of flags.

    Returns, in seconds unless stated otherwise:
        "first_result": from the start to the first file's result.
        "loading": the part of it before the first file is computed.
        "seconds": from the start to the last result.
        "between_results": median time between two results; None for one file.
        "files": name, seconds and waits (`report.Waits`) of each file.
        "peak_gib": the largest memory peak of all files, in GiB.
    Raises:
        RuntimeError: a file failed; a log line says why.
    """
    reports: list[Report] = []
    started = time.perf_counter()
    paths, job, in_flight = prepared(args, process, inputs, output)
    loaded = time.perf_counter()
    restored = list(restore_all(paths, replace(job, on_report=reports.append), in_flight))
    del job
    forget(process.device)
    if not all(restored):
        raise RuntimeError(f"{restored.count(False)} of {len(restored)} files failed; see above")
    return {**summary(reports, started), "loading": loaded - started}


def summary(reports: Sequence[Report], started: float) -> dict[str, Any]:
    """The values of `run_folder` but for "loading"; `started`: the start of the run by `time.perf_counter`."""
    ended = sorted(report.ended for report in reports)
    steps = [after - before for before, after in pairwise(ended)]
    return {
        "first_result": ended[0] - started,
        "seconds": ended[-1] - started,
        "between_results": median(steps) if steps else None,
        "files": [
            {"name": r.source.name, "seconds": r.seconds, **(asdict(r.waits) if r.waits else {})} for r in reports
        ],
        "peak_gib": max(report.peak_memory for report in reports) / GIB,
    }


def forget(device: torch.device) -> None:
    """Release cached memory of a run, so that the next one plans with the memory that a new process would find."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def end_to_end_table(result: dict[str, Any], networks: float) -> str:
    """Format the result as text.

    Args:
        result: the result of `end_to_end`, with seconds of "imports".
        networks: seconds of the networks for one file, without reading and writing.
    """
    titles = (
        "first result",
        "loading",
        "first file",
        "between",
        "to reader",
        "to writer",
        "writer idle",
        "end",
        "peak GiB",
    )
    lines = ["", "files in, files out, seconds (waits: median of the files after the first)"]
    lines.append(f"{'run':<6}" + "".join(f"{title:>13}" for title in titles))
    for name in ("cold", "warm"):
        run = result[name]
        later = run["files"][1:] or run["files"]
        waits = [median(file[wait] for file in later) for wait in WAITS]
        cells = [
            run["first_result"],
            run["loading"],
            run["files"][0]["seconds"],
            run["between_results"],
            *waits,
            run["peak_gib"],
        ]
        lines.append(f"{name:<6}" + "".join(f"{'-' if cell is None else f'{cell:.3f}':>13}" for cell in cells))
    between = result["warm"]["between_results"]
    if between is not None:
        times = between / networks
        lines.append(
            f"a file takes {between:.3f} s warm, its networks alone {networks:.3f} s: {times:.2f} times as long"
        )
    if result["imports"] is not None:
        lines.append(f"before all of this: {result['imports']:.1f} s of imports")
    if result["device_busy"] is not None:
        lines.append(f"the device was busy for {result['device_busy']:.1%} of the time between its first and last work")
    return "\n".join(lines)
