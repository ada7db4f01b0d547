"""Computes the SHA-256 of a file. Imports nothing of this repository, so that every module can use it."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file's content: 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
