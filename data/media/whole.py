"""How does a file appear under its name only when it is complete?

Everything is written to a hidden name beside the target and moved into place at the end; after an error nothing is
left.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from data.media.info import MediaError


class MediaWriter(ABC):
    """A context manager that takes frames in order. Leaving it normally completes the file; leaving it by an error
    leaves nothing.

    Attributes:
        path: the file to be.
        frames: how many were written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self.temporary = path.with_name(f".{path.stem}.part{path.suffix}")

    def write(self, pixels: Tensor, times: Sequence[Fraction]) -> None:
        """Append frames.

        Args:
            pixels: u8 [T, 3, H, W], RGB, of the size the writer was opened with; any device.
            times: T times in seconds, strictly increasing over all calls.
        """
        if pixels.dtype.is_floating_point or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"frames are u8 [T, 3, H, W], got {pixels.dtype} {tuple(pixels.shape)}; round and clamp first"
            )
        if len(times) != len(pixels):
            raise ValueError(f"{len(pixels)} frames came with {len(times)} times; every frame needs one")
        for picture, time in zip(pixels.cpu(), times, strict=True):
            self._write_one(picture, time)
            self.frames += 1

    @abstractmethod
    def _write_one(self, picture: Tensor, time: Fraction) -> None:
        """u8 [3, H, W]."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the temporary file."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of everything open; called last, also after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = False
        try:
            if kind is None:
                if self.frames == 0:
                    raise MediaError(f"{self.path.name}: no frame was written, so there is no file")
                self._finish()
                complete = True
        finally:
            self._release()
            if not complete:
                self.temporary.unlink(missing_ok=True)
        if complete:
            os.replace(self.temporary, self.path)
