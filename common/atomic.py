"""Atomic writes: a file appears under its name complete or not at all, also after a crash or beside another writer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.claim import Claim, remove


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """The path of an empty file to write to; it becomes `target` when the block ends without an error.

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
    """Give a complete file its name.

    Args:
        mode: permissions of the result; some libraries replace the file that they are given by a private one.
    """
    refuse_folder(target)
    if os.name == "posix":
        os.chmod(temporary, mode & 0o777)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())  # a name must not survive a power cut that its content did not
    os.replace(temporary, target)


def publish_folder(temporary: Path, target: Path, claim: Claim) -> None:
    """Give a complete folder of files its name; one that has the name already goes.

    No system call replaces a folder that holds files, so for the moment between two renamings neither is there. After
    an error the old one is back.

    Args:
        claim: of `target`.
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
    """IsADirectoryError where a folder has the name of the file to be."""
    if target.is_dir():
        raise IsADirectoryError(f"{target.name}: {target} is a folder; rename it, or choose another place")
