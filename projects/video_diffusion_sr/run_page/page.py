"""Collects the results of a run and writes them as one page at its end."""

import argparse
import base64
import logging
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from common.atomic import atomic_write
from common.distributed.process import Process
from common.logger import get_logger
from projects.video_diffusion_sr.file_errors import sentence
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.run_order import Job
from projects.video_diffusion_sr.run_page.html import Page, page_text
from projects.video_diffusion_sr.run_page.lines import Lines

logger = get_logger(__name__)

ROOM = 10 * 2**20  # most bytes of pictures in a page; base64 makes them a third larger
ROOM_OF_A_FILE = ROOM // 8
SUFFIXES = (".html", ".htm")


class NoPage:
    """The replacement of `RunPage` for runs without a page."""

    def attach(self, job: Job) -> Job:
        """Return the job unchanged."""
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class RunPage:
    """A context manager around a run on every rank; when the first rank leaves it, that rank writes the page.

    Errors of the page are logged as warnings, so that they never affect a result. After an interruption, the page only
    has the results of processes for which the first rank does not have to wait.
    """

    def __init__(self, target: Path, preset: Preset, args: argparse.Namespace, process: Process) -> None:
        self.target, self.process = target, process
        self.started, self.began = datetime.now(), time.perf_counter()
        self.facts = facts_of(preset, args, process)
        self.lines = Lines()
        self.files: list[str] = []
        self.done: list[dict[str, Any]] = []

    def attach(self, job: Job) -> Job:
        """The job, with calls of `add` for its restored files."""
        files = len(job.plans)
        self.files = [str(path) for path in job.plans]
        sampling = job.restorer.infer.sampling
        self.facts |= {"network calls": str(sampling.steps), "guidance": f"{sampling.guidance.scale:g}"}
        options = replace(job.restorer.result_options, page_bytes=min(ROOM // files, ROOM_OF_A_FILE))
        return replace(job, restorer=replace(job.restorer, result_options=options), on_report=self.add)

    def add(self, report: Report) -> None:
        """Add a restored file."""
        self.done.append(entry_of(report))

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self.lines)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self.lines)
        local = {"done": self.done, "lines": self.lines.kept, "outcomes": self.lines.outcomes}
        if error is not None and not self.files:  # the request was refused
            return
        if error is not None:
            self._try_to_write([local], ended_early=True)
            return
        try:
            parts = self.process.gather_on_leader(local, "page")
        except BaseException:  # another process has failed, so the launcher will end this one
            self._try_to_write([local], ended_early=True)
            raise
        self._try_to_write(parts, ended_early=False)

    def _try_to_write(self, parts: Sequence[dict[str, Any]] | None, ended_early: bool) -> None:
        if not self.process.is_leader or parts is None:
            return
        try:
            self._write(parts, ended_early)
        except Exception as failure:
            logger.warning("%s", sentence(failure, self.target, "written"))
            logger.debug("where it happened:", exc_info=failure)

    def _write(self, parts: Sequence[dict[str, Any]], ended_early: bool) -> None:
        page = Page(
            facts={**self.facts, "seconds": f"{time.perf_counter() - self.began:.1f}"},
            started=self.started.isoformat(" ", "seconds"),
            files=self.files,
            done=within_page_bytes([entry for part in parts for entry in part["done"]]),
            outcomes=[tuple(row) for part in parts for row in part["outcomes"]],
            lines=[tuple(row) for part in parts for row in part["lines"]],
            folder=self.target.parent.resolve(),
            ended_early=ended_early,
        )
        with atomic_write(self.target) as temporary:
            temporary.write_text(page_text(page), encoding="utf-8")
        logger.info("%s: the report of this run", self.target)


def page_of(preset: Preset, args: argparse.Namespace, process: Process) -> RunPage | NoPage:
    """The page that the flags request; a `NoPage` without --report."""
    return NoPage() if args.report is None else RunPage(target_of(args), preset, args, process)


def target_of(args: argparse.Namespace) -> Path:
    """The path of the page.

    Raises:
        ValueError: the name cannot be that of a page.
    """
    target = args.output_dir / "report.html" if args.report is True else Path(args.report)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--report {target}: the report is a page; name a file that ends in .html")
    if target.is_dir():
        raise ValueError(f"--report {target} is a folder; name a file that ends in .html")
    return target


def facts_of(preset: Preset, args: argparse.Namespace, process: Process) -> dict[str, str]:
    """The facts with which a reader can understand a run or repeat it."""
    device = process.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "model": preset.name,
        "command": shlex.join(sys.argv),
        "flags": ", ".join(f"{key} {value}" for key, value in sorted(vars(args).items()) if value not in (None, [])),
        "device": f"{device} ({name}){f', {process.world} processes' if process.world > 1 else ''}",
        "versions": f"PyTorch {torch.__version__}, Python {platform.python_version()}",
    }


def entry_of(report: Report) -> dict[str, Any]:
    """A report as a dictionary for JSON."""
    sampled = None if report.samples is None else asdict(report.samples)
    for still in sampled["stills"] if sampled else ():
        still |= {key: base64.b64encode(still[key]).decode() for key in ("before", "after")}
    return {
        "path": str(report.source), "output": str(report.output), "frames": report.frames, "size": report.size,
        "seconds": report.seconds, "memory": report.peak_memory, "damage": report.damage, "samples": sampled,
    }  # fmt: skip


def within_page_bytes(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries; if all pictures take more than `ROOM`, the last entries lose theirs."""
    left, kept = ROOM * 4 // 3, []
    for entry in entries:
        stills = entry["samples"]["stills"] if entry["samples"] else ()
        left -= sum(len(still["before"]) + len(still["after"]) for still in stills)
        if left < 0 and entry["samples"]:
            entry = {**entry, "samples": {**entry["samples"], "stills": ()}}
        kept.append(entry)
    return kept
