"""The SHA-256 of large files, computed once for each version of a file.

A file of 16 GB takes about ten seconds. The hash is therefore kept in the user's cache with the file's path, size,
modification time and inode. While these are the same, the file is not read again.
"""

import contextlib
import json
import os
from pathlib import Path

from common.atomic import atomic_write
from common.sha256 import sha256_of

KEPT_BYTES = 1 << 28  # smaller files are read every time


def known_sha256(path: Path, cache: Path | None = None) -> str:
    """As `sha256_of`, but read from the cache if the file has not changed.

    Args:
        cache: the file of known hashes; None: `cache_file()`. If it cannot be read or written, hashes are computed.
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
    """The file of known hashes: `~/.cache/seedvr/sha256.json`, or below $XDG_CACHE_HOME."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder).expanduser() / "seedvr" / "sha256.json"


def _read(cache: Path) -> dict[str, str]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
