"""The identity of a job, its restarts, and the files that it leaves for a restart."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from common.claim import Claim, TargetInUseError
from common.distributed.launcher import MARK
from common.owner import machine, process_started

FOLDER = ".queue"  # beside the results, followed by the job's id
ENDED, SEEN = "ended", "seen"


def is_speaker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process logs for its job. It is known before the process joins the job."""
    return environment.get("RANK", "0") == "0"


def job_id(environment: Mapping[str, str] = os.environ) -> str:
    """12 hexadecimal digits, equal for all processes of a job and its restarts, and different for other jobs.

    Without `--rdzv-id`, torchrun gives all jobs on a port the same id. On one machine they are therefore distinguished
    by their launcher, the parent of all processes.
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
    """The number of restarts that the launcher has left for this job."""
    most, done = (int(environment.get(f"TORCHELASTIC_{name}", "0")) for name in ("MAX_RESTARTS", "RESTART_COUNT"))
    return max(most - done, 0)


def journal_folder(output: Path) -> Path:
    """The folder of a job's journal."""
    return output / f"{FOLDER}-{job_id()}"


def mark_ended(output: Path) -> None:
    """Record that the job has ended with failures, so that a restart does not try the same files again."""
    folder = journal_folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENDED).touch()


def has_ended(output: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an earlier attempt of this job has ended. Every process calls it once; the last removes the record."""
    folder = journal_folder(output)
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or not (folder / ENDED).exists():
        return False
    if not restarts_left(environment):
        (folder / f"{SEEN}-{environment.get('RANK', '0')}").touch()
        if len(list(folder.glob(f"{SEEN}-*"))) >= int(environment.get("WORLD_SIZE", "1")):
            shutil.rmtree(folder, ignore_errors=True)
    return True


def remove_dead_journals(output: Path, current: Path) -> None:
    """Remove the journals of other jobs whose first process has ended."""
    for folder in output.glob(f"{FOLDER}*"):
        if folder == current or not folder.is_dir():
            continue
        try:
            claim = Claim(folder, patience_s=0.0)
        except (TargetInUseError, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        claim.release()
