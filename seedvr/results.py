"""A file's result is made in a hidden folder beside its target, and moved to the target when it is complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from common.claim import PREFIX, name_digest
from projects.video_diffusion_sr.record import move_record, remove_record
from seedvr.errors import InputError


def place(made: Path, final: Path, source: Path, record: bool) -> Path:
    """Move a result to its final path, and its record beside it. The record of a replaced file is removed.

    Raises:
        InputError: the final path is that of the input, or its suffix is not that of the result.
    """
    if made.suffix.lower() != final.suffix.lower():
        raise InputError(f"{final}: the result of {source.name} is a {made.suffix} file; give the target that suffix")
    if final.exists() and source.exists() and final.samefile(source):
        raise InputError(f"{final}: the result would replace the input; choose another target")
    remove_record(final)
    os.replace(made, final)
    if record:
        move_record(made, final)
    return final


@contextmanager
def workplace(target: Path, resume: bool) -> Iterator[Path]:
    """A hidden folder beside the target in which the result is made, so that it can be moved atomically.

    Args:
        resume: give the folder a fixed name, so that the next call finds it, and keep it after an error if it holds
            finished segments.
    """
    if not resume:
        with TemporaryDirectory(dir=target.parent, prefix=PREFIX) as unnamed:
            yield Path(unnamed)
        return
    made = target.with_name(f"{PREFIX}{name_digest(target.name)}.unfinished")
    made.mkdir(exist_ok=True)
    try:
        yield made
    finally:
        with suppress(OSError):  # it is not empty
            made.rmdir()
