"""Writes a record of how a result was made: a JSON file beside it, `NAME.mp4.json`.

Errors of a record are logged in one line, so that they never affect the result. The record is removed before a result
is replaced and written afterwards, so that it never describes the result of another run.
"""

import contextlib
import json
import platform
import subprocess
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from omegaconf import OmegaConf

from common.atomic import atomic_write
from common.file_hash import known_sha256
from common.logger import get_logger
from data.media import ClipRange, MediaError, MediaInfo
from data.media.sequence import numbered, size_in_bytes
from projects.video_diffusion_sr.file_errors import sentence
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.report import Report
from projects.video_diffusion_sr.request import ROOT
from projects.video_diffusion_sr.settings import RunSettings

logger = get_logger(__name__)

FORMAT = "seedvr_record"  # the first key; its value is the version of what follows
VERSION = 1
PATIENCE_S = 60.0  # longest time in seconds that a complete result waits for the hashes of weights
MOST_BYTES = 1 << 20  # largest size of a record; a larger file is not taken for one
LIBRARIES = ("torch", "numpy", "diffusers", "safetensors", "av", "pillow", "opencv-python-headless")


@dataclass(frozen=True)
class Recorder:
    """Writes the record of every result of a run.

    run: the entries that all records share.
    weights: the entries of the weight files with their hashes, which a thread computes.
    """

    run: Mapping[str, Any]
    weights: Future[list[dict[str, Any]]]

    def write(self, output: Path, report: Report, info: MediaInfo, clip_range: ClipRange, plan: MemoryPlan) -> None:
        """Write the record of a complete result.

        Args:
            output: the path of the result.
            report: the report of the file.
            info: the facts of the input, or of the part of it that was read.
            clip_range: the part of the input that was restored.
            plan: the memory plan.
        """
        path = record_path(output)
        try:
            record = {
                FORMAT: VERSION,
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
                "result": {**facts_of(output), **figures(report)},
                "input": {**facts_of(report.source), **_input(info, clip_range)},
                "weights": self._weights(),
                **self.run,
                "plan": plan.describe(),
            }
            _write(path, plain(record))
        except Exception as error:
            logger.warning("%s", sentence(error, path, "written"))
            logger.debug("where it happened:", exc_info=error)

    def _weights(self) -> list[dict[str, Any]] | str:
        try:
            return self.weights.result(PATIENCE_S)
        except TimeoutError:  # a slow disk; the record of the next result may have them
            return "their sums were not known when the result was complete"


def recorder(settings: RunSettings) -> Recorder:
    """Make the recorder of a run, and start to compute the hashes of its weights in a thread."""
    weights: Future[list[dict[str, Any]]] = Future()
    files = dict(zip(("transformer", "vae"), settings.checkpoints, strict=True)) | {"lora": settings.request.lora}
    Thread(target=_weigh, args=(files, weights), daemon=True, name="sums of weights").start()
    return Recorder({"settings": settings_of(settings), "versions": versions(settings.device)}, weights)


def record_path(output: Path) -> Path:
    """The path of the record of a result."""
    return output.with_name(f"{output.name}.json")


def move_record(output: Path, target: Path) -> None:
    """Move the record of a result that has been renamed, and store the new name in it."""
    old, new = record_path(output), record_path(target)
    try:
        record = json.loads(old.read_text(encoding="utf-8"))
        record["result"]["path"] = str(target.absolute())
        _write(new, record)
    except Exception as error:
        logger.warning("%s", sentence(error, new, "written"))


def is_record(path: Path) -> bool:
    """Whether a file is a record, and not another file with such a name."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and FORMAT in found


def remove_record(output: Path) -> None:
    """Remove the record of a result that will be replaced; a file that is not a record is kept."""
    path = record_path(output)
    if is_record(path):
        with contextlib.suppress(OSError):  # an error here must not affect the result
            path.unlink()


def facts_of(path: Path) -> dict[str, Any]:
    """Facts that identify a file without reading it: its path, size and time of change."""
    if path.is_dir():
        changed = max(file.stat().st_mtime for file in path.iterdir())
        size = sum(file.stat().st_size for file in path.iterdir())
    elif path.exists():
        changed, size = path.stat().st_mtime, path.stat().st_size
    else:  # a pattern of numbered pictures
        changed, size = max(file.stat().st_mtime for file in numbered(path).files), size_in_bytes(path)
    return {
        "path": str(path.absolute()),
        "bytes": size,
        "modified": datetime.fromtimestamp(changed, UTC).isoformat(),
    }


def figures(report: Report) -> dict[str, Any]:
    """The values of a report by name. Seconds of stages are those of the device; for waits see `report.Waits`."""
    height, width = report.size
    waits = {} if report.waits is None else {f"waits_{name}": value for name, value in asdict(report.waits).items()}
    seconds = {"all": report.seconds, **report.stages, **waits}
    return {
        "frames": report.frames,
        "frames_of_an_earlier_run": report.kept,
        "width": width,
        "height": height,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": report.peak_memory,
        "reserved_memory_bytes": report.reserved,
        "predicted_memory_gib": report.predicted_gib,
        "damage": report.damage,
    }


def settings_of(settings: RunSettings) -> dict[str, Any]:
    """All settings of a run: those of the request, and those that follow from it."""
    request = settings.request
    return {
        "model": settings.preset.name,
        "seed": request.seed,
        "dtype": settings.dtype,
        "device": settings.device,
        "sampling": settings.sampling,
        "window_latents": settings.window,
        "request": request,
        "config": OmegaConf.to_container(settings.config, resolve=True),
    }


def versions(device: torch.device) -> dict[str, Any]:
    """The versions of the program, Python, libraries and the device."""
    known = {"seedvr": program_version(), "python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            known[library] = metadata.version(library)
        except metadata.PackageNotFoundError:  # the library may be installed as another package
            known[library] = None
    if device.type == "cuda":
        known |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(device)}
    return known


def program_version() -> str | None:
    """The commit of a checkout, with "-dirty" if files are changed, or the version of an installed package."""
    if (ROOT / ".git").exists():
        try:
            command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
            return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        return metadata.version("seedvr")
    except metadata.PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """Convert a value to one that JSON can represent."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if isinstance(value, int | float | str | None) else str(value)


def _input(info: MediaInfo, clip_range: ClipRange) -> dict[str, Any]:
    facts = {"kind": info.kind, "width": info.width, "height": info.height, "frames_per_second": info.frame_rate}
    return {**facts, "part": clip_range} if clip_range.applies_to(info.kind) else facts


def _write(path: Path, record: Mapping[str, Any]) -> None:
    if path.exists() and not is_record(path):
        raise MediaError(f"{path} is no record of a result, and stays; rename it")
    with atomic_write(path) as temporary:
        text = json.dumps(record, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _weigh(files: Mapping[str, Path | None], weights: Future[list[dict[str, Any]]]) -> None:
    """Compute the entries of weight files, and store them in a future."""
    try:
        given = {name: path for name, path in files.items() if path is not None}
        weights.set_result(
            [{"of": name, **facts_of(path), "sha256": known_sha256(path)} for name, path in given.items()]
        )
    except Exception as error:
        weights.set_exception(error)
