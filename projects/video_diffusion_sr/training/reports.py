"""Writes the output of a run: progress bar, log lines, TensorBoard scalars and pictures, and a metrics file."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.distributed.process import Process
from common.extras import need
from common.logger import get_logger
from projects.video_diffusion_sr.training.placement import described
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import Stage, Work

logger = get_logger(__name__)

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "B200": 2250e12, "L40": 181e12}


def introduce(stage: Stage, settings: LoopSettings, process: Process, step: int, folder: Path) -> None:
    """Log what will run from `step` on. This precedes the first step, which may take long."""
    kind = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU"
    shared = f", {settings.sp_size} share every clip" if settings.sp_size > 1 else ""
    where = f"{process.world} x {kind}{shared}, {settings.precision}"
    logger.info("stage %s on %s: %s", stage.name, where, described(stage))
    if step < settings.steps:
        logger.info("steps %d to %d into %s", step + 1, settings.steps, folder)
    else:
        logger.info("%s has all its %d steps; a larger train.steps goes on", folder, settings.steps)


def peak_flops(device: torch.device) -> float | None:
    """The manufacturer's peak rate of a device, in dense bfloat16 operations per second; None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


class Reports:
    """Writes the log, the metrics and the TensorBoard files of one run. Only the first rank writes.

    Args:
        folder: the run's folder, for `metrics.jsonl` and TensorBoard's files.
        is_leader: whether this rank writes.
        start, steps: the first step of this process, and the number of steps of the run.
        ranks: number of batches per step: the number of ranks, or of groups of ranks that share clips.
        wandb: name of a Weights & Biases project that receives the scalars as well; None: none.
    """

    def __init__(
        self,
        folder: Path,
        is_leader: bool,
        start: int,
        steps: int,
        ranks: int,
        device: torch.device,
        wandb: str | None = None,
    ) -> None:
        self.is_leader, self.ranks, self.steps, self.device = is_leader, ranks, steps, device
        self.peak = peak_flops(device)
        self._work = Work()
        self._since, self._from_step = time.perf_counter(), start
        self._waited = 0.0
        self._fills: list[float] = []
        self._board = self._file = self._bar = self._wandb = None
        if is_leader:
            need("tensorboard", "train", "training")
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            folder.mkdir(parents=True, exist_ok=True)
            drop_lines_from(folder / "metrics.jsonl", start)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
            self._file = (folder / "metrics.jsonl").open("a")
            self._bar = tqdm(total=steps, initial=start, disable=None, dynamic_ncols=True, unit="step")
            self._wandb = None if wandb is None else start_wandb(wandb, folder)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time inside the `with` block as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def step(self, work: Work, fill: float | None = None) -> None:
        """Count a launched step. `fill` is the fraction of the budget that its batch uses."""
        if fill is not None:
            self._fills.append(fill)
        self._work = Work(self._work.samples + work.samples, self._work.flops + work.flops)
        if self._bar is not None:
            self._bar.update()

    def scalars(self, step: int, values: Mapping[str, Tensor | float]) -> float:
        """Write scalars after step `step` (from 0). Waits for the device. Returns the number of steps per second."""
        now = {name: float(value) for name, value in values.items()}
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        done = step + 1 - self._from_step
        now["samples_per_s"] = self._work.samples * self.ranks / elapsed
        now["steps_per_s"] = done / elapsed
        if self._work.flops:
            now["tflops_per_device"] = self._work.flops / elapsed / 1e12
        if self._work.flops and self.peak:
            now["mfu"] = self._work.flops / elapsed / self.peak
        now["data_wait"] = self._waited / elapsed
        if self._fills:
            now["batch_fill"] = sum(self._fills) / len(self._fills)
        now["memory_gib"] = peak_memory(self.device) / 2**30
        self._since, self._from_step, self._work = time.perf_counter(), step + 1, Work()
        self._waited, self._fills = 0.0, []
        if self.is_leader:
            self._write(step, now)
            self._say(step, now)
        return now["steps_per_s"]

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Write the measures of held-out clips after step `step`. Their time is not counted as training time."""
        if self.is_leader and values:
            self._write(step, values)
            words = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            logger.info("step %d: %s", step + 1, words)
        self._since, self._from_step = time.perf_counter(), step + 1
        self._work, self._waited, self._fills = Work(), 0.0, []

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        assert self._board is not None and self._file is not None, "only the leader writes"
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def _say(self, step: int, now: Mapping[str, float]) -> None:
        left = (self.steps - step - 1) / max(now["steps_per_s"], 1e-9)
        words = ", ".join(f"{k} {v:.4g}" for k, v in now.items() if k not in ("samples_per_s", "steps_per_s"))
        line = f"step {step + 1}/{self.steps}: {words}, {now['samples_per_s']:.3g} samples/s, {left / 60:.1f} min left"
        if self._bar is None or self._bar.disable:
            logger.info(line)
        else:
            self._bar.set_postfix_str(words)

    def images(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Write pictures [3, H, W] in [0, 1] after step `step`."""
        if self._board is None:
            return
        for name, image in images.items():
            self._board.add_image(name, image.detach().float().clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Close all files, at the end of the run."""
        for output in (self._bar, self._board, self._file):
            if output is not None:
                output.close()
        if self._wandb is not None:
            self._wandb.finish()


def peak_memory(device: torch.device) -> float:
    """The peak memory of this process in bytes, on its GPU or else on the host; 0 if it is unknown."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def start_wandb(project: str, folder: Path) -> Any:
    """Start a Weights & Biases run with the name of the folder; ValueError if the package is missing."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("train.wandb names a project and the package wandb is missing: pip install wandb") from error
    return wandb.init(project=project, name=folder.name, dir=str(folder), id=folder.name, resume="allow")


def drop_lines_from(path: Path, step: int) -> None:
    """Remove metrics of steps that a resumed run repeats, and an incomplete last line."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if step_of(line) < step]
        path.write_text("".join(line + "\n" for line in lines))


def step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinite for an incomplete line."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
