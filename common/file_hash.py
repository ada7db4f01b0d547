"""The SHA-256 of large files, computed once for each version of a file.

A transformer's file of 16 GB takes some ten seconds. So the sum is kept in the user's cache, beside the file's place,
size, time of change and inode; while these stay the same the file is not read again.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from common.atomic import atomic_write

KEPT_BYTES = 1 << 28  # smaller files are read every time


def known_sha256(path: Path, cache: Path | None = None) -> str:
    """`sha256_of` of a file, from the cache while the file stays as it is.

    Args:
        cache: of known sums; None: `cache_file()`. One that cannot be read or written costs time only.
    Raises:
        OSError: the file cannot be read.
    """
    state = path.stat()
    if state.st_size < KEPT_BYTES:
        return sha256_of(path)
    cache = cache_file() if cache is None else cache
    key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{state.st_ino}"
    known = _read(cache)
    if key not in known:
        known[key] = sha256_of(path)
        with contextlib.suppress(OSError), atomic_write(cache) as temporary:
            temporary.write_text(json.dumps({**_read(cache), key: known[key]}, indent=1), encoding="utf-8")
    return known[key]


def cache_file() -> Path:
    """Where sums are kept: `~/.cache/seedvr/sha256.json`, or below $XDG_CACHE_HOME."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder).expanduser() / "seedvr" / "sha256.json"


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits of a file's content as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(cache: Path) -> dict[str, str]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
