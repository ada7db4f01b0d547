"""The progress of a restoration, and a bar that shows it with the time left."""

import contextlib
from types import TracebackType
from typing import Protocol, Self

from tqdm import tqdm

from common.logger import printable

# Rough weights of the stages by their time per frame, so that the time left is about right from the start.
WEIGHTS = {"encode": 2, "sample": 2, "decode": 4}


class Progress(Protocol):
    """The interface to which a restoration reports its progress: a context manager around the work on one clip."""

    def advance(self, stage: str, frames: int) -> None:
        """Report that `frames` more frames have passed a stage: "encode", "sample" or "decode"."""

    def expect(self, frames: int) -> None:
        """Report the true number of frames, when it is known."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProgressBar:
    """A bar that shows the progress of one file over its stages, and the time left.

    Args:
        name: shown before the bar.
        frames: expected number of frames; None: unknown, so that no time left is shown.
        show: False: show nothing, for logs and tests.
    """

    def __init__(self, name: str, frames: int | None, show: bool = True) -> None:
        self.name = printable(name)
        total = None if frames is None else frames * sum(WEIGHTS.values())
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} (left {remaining})" if total else "{desc} {elapsed}"
        self.bar = tqdm(
            total=total, desc=self.name, bar_format=shape, disable=not show, leave=False, dynamic_ncols=True
        )

    def advance(self, stage: str, frames: int) -> None:
        """Report that `frames` more frames have passed a stage: "encode", "sample" or "decode"."""
        try:
            self.bar.set_description_str(f"{self.name} {stage}", refresh=False)
            self.bar.update(frames * WEIGHTS[stage])
        except OSError:  # the terminal was closed; the work continues
            self.bar.disable = True

    def expect(self, frames: int) -> None:
        """Report the true number of frames, when it is known."""
        self.bar.total = frames * sum(WEIGHTS.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.bar.close()
