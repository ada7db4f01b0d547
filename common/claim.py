"""Claims: a file that is being written has one owner. Two runs never write the same file, and a dead run blocks none.

A claim is a lock file beside the target with an advisory lock (flock), which the kernel releases when the owner dies.
Some network file systems support such locks on one machine only, or not at all. The lock file therefore also names its
owner, who updates its modification time every few seconds, so that other machines can see whether the owner is alive.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from common.kept import folder_of, is_leftover
from common.owner import Owner, read_owner, this_process

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".seedvr-"
LOCK, PART = ".lock", ".part"
PATIENCE_S = 3.0  # how long to wait for another owner, since a killed run may need a moment to end
TOUCH_S = 2.0  # interval at which an owner updates the modification time
SILENCE_S = 20.0  # an owner on another machine counts as dead after this time without an update
POLL_S = 0.1
OLD_S = 3600.0
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class TargetInUseError(OSError):
    """Another running process is writing this file."""

    def __init__(self, target: Path, owner: Owner | None) -> None:
        super().__init__(f"{target.name}: {target} is being made by {owner or 'another process'} now")
        self.target, self.owner = target, owner


class Claim:
    """The exclusive right to write one file. It ends with `release`, or when the object or the process ends.

    Args:
        target: the file to write; its folder exists.
        patience_s: how long to wait for another owner to finish or end.

    Raises:
        TargetInUseError: another process owns the file.
        OSError: the folder cannot be written to.
    """

    def __init__(self, target: Path, patience_s: float = PATIENCE_S) -> None:
        self.target = target
        self.stem = target.with_name(PREFIX + name_digest(target.name))
        self.lock = self.stem.with_name(self.stem.name + LOCK)
        self._descriptor = _acquire(self.lock, target, time.monotonic() + patience_s)
        self._stop = threading.Event()
        self.release = weakref.finalize(self, _release, self.lock, self._descriptor, self._stop)
        with contextlib.suppress(OSError):  # on a full disk the lock is valid without its record
            os.pwrite(self._descriptor, this_process().to_json(), 0)
        threading.Thread(target=_keep_touching, args=(self._descriptor, self._stop), daemon=True).start()
        for leftover in unfinished_files(self.stem):  # left by a dead owner, since this process has the claim
            remove(leftover)

    def new_file(self, suffix: str = "") -> Path:
        """Make a new empty file beside the target, with the permissions of the target, for this process only.

        Its name is short, because the name of the target may have the maximal length.
        """
        temporary = self.temporary_name(suffix)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        return temporary

    def new_folder(self) -> Path:
        """As `new_file`, but make a new empty folder."""
        temporary = self.temporary_name()
        temporary.mkdir()
        return temporary

    def temporary_name(self, suffix: str = "") -> Path:
        """Choose an unused name beside the target. A file of this name is removed with other leftovers of the claim."""
        return self.stem.with_name(f"{self.stem.name}-{os.urandom(4).hex()}{PART}{suffix[:8]}")


def name_digest(name: str) -> str:
    """Hash a file name of any length and any bytes to 16 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def unfinished_files(stem: Path) -> list[Path]:
    """The unfinished files and folders of one target, and its kept segments if the target is complete."""
    kept = [folder_of(stem)] if is_leftover(folder_of(stem)) else []
    return sorted(stem.parent.glob(f"{stem.name}-*{PART}*")) + kept


def remove(temporary: Path) -> None:
    """Remove an unfinished file or folder, if it exists."""
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> int:
    """Remove the unfinished files of dead owners from a folder. Returns their number. Running owners keep theirs."""
    stems = {entry.name[: len(PREFIX) + 16] for entry in folder.glob(f"{PREFIX}*")} if folder.is_dir() else set()
    removed = 0
    for stem in sorted(stems):
        lock = folder / (stem + LOCK)
        try:
            if _is_recent_elsewhere(lock):
                continue
            descriptor = _acquire(lock, folder / stem, deadline=0.0)
        except OSError:  # the owner is running, or this user may not remove it
            continue
        for leftover in unfinished_files(folder / stem):
            remove(leftover)
            removed += 1
        _release(lock, descriptor, None)
    return removed


def _is_recent_elsewhere(lock: Path) -> bool:
    """Whether another machine made this lock within the last hour; it is then left alone without waiting."""
    if not lock.exists():
        return False
    owner = read_owner(lock.read_bytes())
    return owner is not None and not owner.is_local and time.time() - lock.stat().st_mtime < OLD_S


def _acquire(lock: Path, target: Path, deadline: float) -> int:
    """Lock the lock file. Returns its descriptor."""
    for owner in _attempts(lock):
        if isinstance(owner, int):
            return owner
        if time.monotonic() >= deadline:
            raise TargetInUseError(target, owner)
        time.sleep(POLL_S)
    raise AssertionError("attempts do not end")


def _attempts(lock: Path) -> Iterator[int | Owner | None]:
    """Try repeatedly to lock. Yields the locked descriptor, or the present owner (None if the record names none)."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        owner, ours = None, False
        try:
            locked = _flock(descriptor)
            owner = read_owner(os.pread(descriptor, 4096, 0))
            if locked is not False and _is_named(descriptor, lock):
                # If locks hold on one machine only, or do not exist, other machines may have an owner.
                ours = not _lives(owner, descriptor, has_lock=locked is True)
                if ours and locked is None:
                    ours = _take_without_lock(descriptor, lock)
        finally:
            if not ours:
                os.close(descriptor)
        yield descriptor if ours else owner


def _flock(descriptor: int) -> bool | None:
    """Try to lock. Returns whether it succeeded; None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_named(descriptor: int, lock: Path) -> bool:
    """Whether the name still refers to this file; the last owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False


def _lives(owner: Owner | None, descriptor: int, has_lock: bool) -> bool:
    """Whether the recorded owner is running: looked up on this machine, or judged by the file's modification time."""
    if owner is None or owner == this_process():
        return False
    if owner.is_local and (has_lock or owner.started):
        return not has_lock and owner.alive
    before = os.fstat(descriptor).st_mtime_ns
    until = time.monotonic() + SILENCE_S  # clocks of machines differ, so only changes of the time count
    while time.monotonic() < until:
        time.sleep(TOUCH_S / 4)
        if os.fstat(descriptor).st_mtime_ns != before:
            return True
    return False


def _take_without_lock(descriptor: int, lock: Path) -> bool:
    """Write the record, and check that it stays; if several processes write at once, the last one becomes the owner."""
    os.pwrite(descriptor, this_process().to_json().ljust(1024), 0)
    time.sleep(4 * POLL_S)
    return _is_named(descriptor, lock) and read_owner(os.pread(descriptor, 4096, 0)) == this_process()


def _keep_touching(descriptor: int, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_S):
        try:
            os.utime(descriptor)
        except (OSError, NotImplementedError, TypeError):
            return


def _release(lock: Path, descriptor: int, stop: threading.Event | None) -> None:
    """Remove the lock file, and then release the lock, so that no process locks a removed file."""
    if stop is not None:
        stop.set()
    with contextlib.suppress(OSError):
        lock.unlink()
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if fcntl is None:  # Windows removes closed files only
        with contextlib.suppress(OSError):
            lock.unlink()
