"""Reads clips from tar files with the layout of WebDataset: `NAME.mp4`, and beside it `NAME.safetensors`.

File systems of clusters are faster with few large files than with millions of small ones. A tar is not unpacked: its
headers state where each member begins, so any member can be read in place. Clips in tars are therefore sampled as files
are, with the same draws and exact resuming, and without a shuffle buffer. The path of such a clip has the form
`shard.tar/NAME.mp4@OFFSET+SIZE`.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

SUFFIX = ".tar"
WRITTEN = re.compile(r"(?P<tar>.+\.tar)/(?P<name>.+)@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A file in a tar: `size` bytes from `offset` on."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}@{self.offset}+{self.size}"

    @staticmethod
    def parse(path: str) -> "Member | None":
        """The reverse of `str`; None for the path of a plain file."""
        found = WRITTEN.fullmatch(path)
        if found is None or not Path(found["tar"]).is_file():
            return None
        return Member(found["tar"], found["name"], int(found["offset"]), int(found["size"]))


def members(path: Path) -> list[Member]:
    """The regular files of a tar, sorted by name. If a name occurs several times the last file counts, as in unpacking.

    Raises:
        ValueError: the file is not an uncompressed tar, or is truncated.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            entries = [entry for entry in archive if entry.isreg() and not entry.issparse()]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} is no plain tar ({error}); shards are read in place and must not be compressed"
        ) from error
    named = [(str(PurePosixPath(entry.name)), entry) for entry in entries]  # without a leading "./"
    found = {name: Member(str(path), name, entry.offset_data, entry.size) for name, entry in named}
    last = max((member.offset + member.size for member in found.values()), default=0)
    if last > path.stat().st_size:
        raise ValueError(f"{path} ends within a member: it was not copied whole")
    return [found[name] for name in sorted(found)]


class Part(io.RawIOBase):
    """A readable file object for `size` bytes of a file, from `offset` on."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.place = Path(path).open("rb", buffering=0), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, start + place)
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self.size - self.place))
        self.file.seek(self.offset + self.place)
        count = self.file.readinto(memoryview(buffer)[:wanted])
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def opened(path: str) -> Iterator[str | BinaryIO]:
    """Yield what PIL and PyAV can open for the path of a source: the path itself, or a file object for a tar member."""
    member = Member.parse(path)
    if member is None:
        yield path
        return
    with io.BufferedReader(Part(member.tar, member.offset, member.size), 2**20) as file:
        yield file
