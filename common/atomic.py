"""Atomic writes: a file appears under its name complete or not at all, also after a crash or beside another writer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.claim import Claim, remove


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """A context that yields the path of an empty file, which is renamed to `target` if the block ends without error.

    Raises:
        TargetInUseError: another process is writing this file.
        OSError: the folder cannot be written to, or `target` is a folder.
    """
    target = Path(target)
    refuse_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    claim = Claim(target)
    temporary = None
    try:
        temporary = claim.new_file(target.suffix)
        mode = temporary.stat().st_mode
        yield temporary
        publish(temporary, target, mode)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        claim.release()


def publish(temporary: Path, target: Path, mode: int) -> None:
    """Rename a complete file to its final name.

    Args:
        mode: permissions of the result. Some libraries replace the given file by one with private permissions.
    """
    refuse_folder(target)
    if os.name == "posix":
        os.chmod(temporary, mode & 0o777)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())  # after a power cut, the name must not exist without the content
    os.replace(temporary, target)


def publish_folder(temporary: Path, target: Path, claim: Claim) -> None:
    """Rename a complete folder of files to its final name. An existing folder of this name is removed.

    No system call replaces a folder with files, so between two renames neither folder has the name. After an error the
    old folder has its name again.

    Args:
        claim: the claim on `target`.
    """
    for entry in temporary.iterdir():
        with entry.open("rb+") as file:
            os.fsync(file.fileno())
    if not target.exists():
        os.rename(temporary, target)
        return
    old = claim.temporary_name()
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    remove(old)


def refuse_folder(target: Path) -> None:
    """Raise IsADirectoryError if a folder has the name of the file."""
    if target.is_dir():
        raise IsADirectoryError(f"{target.name}: {target} is a folder; rename it, or choose another place")
