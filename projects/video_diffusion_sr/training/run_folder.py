"""A run's folder belongs to one stage, and to one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from common.claim import Claim, TargetInUseError
from projects.video_diffusion_sr.training.run_record import STARTS

PATIENCE_S = 10.0  # a run that was just killed may have workers that need a moment to end
LISTS = {"index.json", "validation_index.json"}  # of sources: what a start that was refused may leave


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and keep other processes from writing into it until the context ends.

    Raises:
        ValueError: it is a file, or another process writes into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} is a file, or lies below one; name a folder with --output") from None
    try:
        claim = Claim(folder / "run", PATIENCE_S)
    except TargetInUseError as error:
        owner = error.owner or "another process"
        raise ValueError(f"{owner} writes into {folder} now; wait for its end, or choose another --output") from None
    try:
        yield
    finally:
        claim.release()


def refuse_other_stage(folder: Path, stage: str) -> None:
    """ValueError when the folder holds a run of another stage."""
    starts = sorted((folder / STARTS).glob("*.yaml"))
    earlier = OmegaConf.to_container(OmegaConf.load(starts[-1])) if starts else {}
    of_stage = earlier.get("options", {}).get("stage", stage) if isinstance(earlier, dict) else stage
    if of_stage != stage:
        raise ValueError(f"{folder} holds a run of the stage {of_stage}, not {stage}; choose another --output")


def refuse_used_folder(folder: Path) -> None:
    """ValueError when the folder of a new run holds files of another."""
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name not in LISTS and not name.startswith(".") for name in found):
        raise ValueError(f"{folder} holds a run already; resume it, or choose another --output")
