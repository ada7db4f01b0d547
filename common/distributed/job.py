"""Which job is this, can it be started again, and what did it leave for its next attempt?"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from common.claim import BeingMadeError, Claim
from common.distributed.launcher import MARK
from common.owner import machine, process_started

FOLDER = ".queue"  # beside the results, followed by the job's id
ENDED, SEEN = "ended", "seen"


def is_speaker(environment: Mapping[str, str] = os.environ) -> bool:
    """Does this process speak for all of its job? Known before the job is joined."""
    return environment.get("RANK", "0") == "0"


def job_id(environment: Mapping[str, str] = os.environ) -> str:
    """12 hexadecimal digits: the same for all processes of a job and for its restarts, another for any other job.

    torchrun gives every job that shares a port and names no `--rdzv-id` the same id. On one machine the launcher itself
    tells them apart: it is the parent of all processes.
    """
    name = environment.get("TORCHELASTIC_RUN_ID", "none")
    parts = [name]
    if name == "none":
        parts += [environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")]
    has_launcher = "TORCHELASTIC_RUN_ID" in environment or MARK in environment
    if has_launcher and environment.get("GROUP_WORLD_SIZE", "1") == "1":
        parts += [machine(), str(os.getppid()), process_started(os.getppid())]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:12]


def restarts_left(environment: Mapping[str, str] = os.environ) -> int:
    """How often the launcher would still start this job again."""
    most, done = (int(environment.get(f"TORCHELASTIC_{name}", "0")) for name in ("MAX_RESTARTS", "RESTART_COUNT"))
    return max(most - done, 0)


def journal_folder(output: Path) -> Path:
    """Where a job notes what it has done."""
    return output / f"{FOLDER}-{job_id()}"


def mark_ended(output: Path) -> None:
    """The job has come to its end with failures: a restart must not try the same files again."""
    folder = journal_folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENDED).touch()


def has_ended(output: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an earlier attempt of this job has come to its end. Every process asks once; the last one tidies up."""
    folder = journal_folder(output)
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or not (folder / ENDED).exists():
        return False
    if not restarts_left(environment):
        (folder / f"{SEEN}-{environment.get('RANK', '0')}").touch()
        if len(list(folder.glob(f"{SEEN}-*"))) >= int(environment.get("WORLD_SIZE", "1")):
            shutil.rmtree(folder, ignore_errors=True)
    return True


def remove_dead_journals(output: Path, own: Path) -> None:
    """Remove what other jobs left whose first process is dead."""
    for folder in output.glob(f"{FOLDER}*"):
        if folder == own or not folder.is_dir():
            continue
        try:
            claim = Claim(folder, patience_s=0.0)
        except (BeingMadeError, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        claim.release()
