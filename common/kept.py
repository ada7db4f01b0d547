"""Keeps finished pieces of a file beside it until the file is complete, so that a killed run can be resumed.

A folder holds the pieces and a manifest. The manifest records what the pieces were made from and how, their checksums,
and facts about each. A piece is valid if the manifest lists it; the manifest is replaced atomically after the piece is
on the disk. The folder belongs to the owner of the file's claim.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.sha256 import sha256_of

FOLDER = ".kept"
MANIFEST = "manifest.json"
PIECE = re.compile(r"\d{5}\.[a-z0-9]{1,8}")
SHOWN_CHANGES = 3


@dataclass(frozen=True)
class Piece:
    """A finished piece of a file. `name`: its file in the folder. `facts`: values from its maker, for JSON."""

    name: str
    sha256: str
    facts: dict[str, Any]


class Kept:
    """The kept pieces of one file.

    Args:
        stem: the stem of the file's claim, which the caller holds.
        identity: by name, everything that must be unchanged for earlier pieces to be usable.
        facts: names of whole numbers in the facts of every piece.
    Attributes:
        pieces: the intact pieces of an earlier run with the same identity, followed by those of this run.
        dropped: why the pieces of an earlier run are not usable (they are deleted); None if there were none.
    """

    def __init__(self, stem: Path, identity: Mapping[str, str], facts: Collection[str] = ()) -> None:
        self.folder, self._identity, self._facts = folder_of(stem), dict(identity), facts
        self.pieces, self.dropped = self._read()
        if not self.pieces:
            self.remove()
            return
        known = {MANIFEST, *(piece.name for piece in self.pieces)}
        for entry in self.folder.iterdir():
            if entry.name not in known:
                _remove_entry(entry)

    def path(self, piece: Piece) -> Path:
        return self.folder / piece.name

    def add(self, finished: Path, facts: dict[str, Any]) -> Piece:
        """Add a complete file or folder of files as the next piece. After the return it survives a power cut.

        Raises:
            OSError: the piece cannot be kept; earlier pieces are kept.
        """
        new = not self.folder.exists()
        self.folder.mkdir(exist_ok=True)
        try:
            piece = Piece(f"{len(self.pieces):05d}{finished.suffix}", checksum(finished), facts)
            for file in finished.iterdir() if finished.is_dir() else ():
                _to_disk(file)
            _to_disk(finished)
            os.replace(finished, self.path(piece))
            self._write([*self.pieces, piece])
        except OSError:
            if new:
                with contextlib.suppress(OSError):
                    self.remove()
            raise
        if new:
            _to_disk(self.folder.parent)
        self.pieces.append(piece)
        return piece

    def file_is_complete(self, finished: Path) -> None:
        """Record that `finished` is renamed to the final file next, after which the folder is a leftover."""
        if self.pieces:
            self._write(self.pieces, _mark_of(finished.stat()))

    def remove(self) -> None:
        """Delete all pieces."""
        _remove(self.folder)

    def _read(self) -> tuple[list[Piece], str | None]:
        """Read the usable pieces, and the reason why others are not usable."""
        if not self.folder.is_dir():
            return [], None
        try:
            manifest = json.loads((self.folder / MANIFEST).read_bytes())
            identity, pieces = manifest["identity"], [Piece(**piece) for piece in manifest["pieces"]]
            if not all(map(self._is_sound, pieces)):
                raise ValueError("a piece")
        except (OSError, ValueError, TypeError, KeyError):
            return [], "their list is damaged"
        if identity != self._identity:
            return [], changes(identity, self._identity)
        for number, piece in enumerate(pieces):
            if not self.path(piece).exists() or checksum(self.path(piece)) != piece.sha256:
                return pieces[:number], f"piece {number + 1} of {len(pieces)} is damaged"
        return pieces, None

    def _is_sound(self, piece: Piece) -> bool:
        return bool(PIECE.fullmatch(piece.name)) and all(isinstance(piece.facts[name], int) for name in self._facts)

    def _write(self, pieces: list[Piece], complete: list[int] | None = None) -> None:
        manifest = {"identity": self._identity, "pieces": [asdict(piece) for piece in pieces], "complete": complete}
        new = self.folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(manifest, indent=1))
        _to_disk(new)
        os.replace(new, self.folder / MANIFEST)
        _to_disk(self.folder)


def folder_of(stem: Path) -> Path:
    """The folder for the pieces of the file whose claim has this stem."""
    return stem.with_name(stem.name + FOLDER)


def discard(stem: Path) -> None:
    """Remove the pieces of a file, if there are any. The caller holds the claim on the file."""
    _remove(folder_of(stem))


def _remove(folder: Path) -> None:
    """Remove a folder, if it exists; the manifest last, so that an incompletely removed folder is recognised."""
    if not folder.exists():
        return
    for entry in folder.iterdir():
        if entry.name != MANIFEST:
            _remove_entry(entry)
    shutil.rmtree(folder)


def _remove_entry(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def is_leftover(folder: Path) -> bool:
    """Whether the folder of a dead owner can be removed.

    Either the file is complete and the owner was killed before it removed the pieces; or there is no manifest, because
    the owner was killed before writing it or while removing the folder.
    """
    if folder.is_dir() and not (folder / MANIFEST).exists():
        return True
    try:
        complete = json.loads((folder / MANIFEST).read_bytes()).get("complete")
        files = (
            [] if complete is None else [file for file in os.scandir(folder.parent) if not file.name.startswith(".")]
        )
        return any(_mark_of(file.stat()) == complete for file in files)
    except (OSError, ValueError, AttributeError):
        return False


def _mark_of(file: os.stat_result) -> list[int]:
    """An identity of a file that does not change when it is renamed."""
    return [file.st_ino, file.st_size, file.st_mtime_ns]


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describe the differences of two identities."""
    if not isinstance(before, Mapping):
        return "their list is damaged"
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    shown = [f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}" for name in names]
    more = f", and {len(shown) - SHOWN_CHANGES} more" if len(shown) > SHOWN_CHANGES else ""
    return "; ".join(shown[:SHOWN_CHANGES]) + more


def checksum(path: Path) -> str:
    """The SHA-256 of a file, or of the names and hashes of a folder's files, in hexadecimal digits."""
    if path.is_dir():
        sums = {file.name: checksum(file) for file in sorted(path.iterdir())}
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
    return sha256_of(path)


def _to_disk(path: Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk, so that they survive a power cut."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        with contextlib.suppress(OSError) if folder else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
