"""Records the settings, command and revision of every start of a run, and logs what a later start changes."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from common.config import plain_values
from common.logger import get_logger

logger = get_logger(__name__)

ROOT = Path(__file__).resolve().parents[3]
STARTS = "starts"


def record_start(
    folder: Path, model: Mapping[str, Any], train: Mapping[str, Any], more: Mapping[str, Any]
) -> list[str]:
    """Write `starts/NNN.yaml` with all settings of this run, and log the differences from the previous start.

    Args:
        folder: the run's folder.
        model, train: both resolved configurations.
        more: stage, data, weights and other options of the command line.

    Returns:
        the changed settings, as `differences` writes them.
    """
    starts = folder / STARTS
    starts.mkdir(parents=True, exist_ok=True)
    earlier = sorted(starts.glob("*.yaml"))
    given = {"options": dict(more), "model": dict(model), "train": dict(train)}
    again = OmegaConf.create(OmegaConf.to_yaml(given))  # as a later start reads it: lists, no tuples
    assert isinstance(again, DictConfig)
    settings = plain_values(again)
    changes = []
    if earlier:
        before = OmegaConf.to_container(OmegaConf.load(earlier[-1]))
        assert isinstance(before, dict), f"{earlier[-1]} is no record of a start"
        changes = differences({key: before.get(key) for key in settings}, settings)
        for change in changes:
            logger.warning("changed since the last start of this run: %s", change)
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "revision": revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    OmegaConf.save(OmegaConf.create({**about, **settings}), starts / f"{len(earlier):03d}.yaml")
    return changes


def revision() -> str:
    """The program's git commit, with `+` appended if files differ from it; "unknown" outside a repository."""
    try:
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")


def git(*words: str) -> str:
    """Run git in this repository and return its output; subprocess.SubprocessError if it fails."""
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """A line `key: old -> new` for every value that differs, with the full key, in the order of the keys."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [
            change
            for key in keys
            for change in differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == now else [f"{name}: {before} -> {now}"]
