"""Progress of a restoration, and a bar that shows how long it still takes."""

import contextlib
from types import TracebackType
from typing import Protocol, Self

from tqdm import tqdm

from common.logger import printable

# Rough shares of the time that a frame spends in each stage, so that the time left is about right from the start.
WEIGHTS = {"encode": 2, "sample": 2, "decode": 4}


class Progress(Protocol):
    """What a restoration reports to. A context manager around the work on one clip."""

    def advance(self, stage: str, frames: int) -> None:
        """So many more frames are through a stage ("encode", "sample" or "decode")."""

    def expect(self, frames: int) -> None:
        """The true number of frames is known now."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProgressBar:
    """A bar that shows the progress of one file over its stages, and the time left.

    Args:
        name: shown in front.
        frames: how many are expected; None when the container does not say (then no time left is shown).
        show: False for logs and tests.
    """

    def __init__(self, name: str, frames: int | None, show: bool = True) -> None:
        self.name = printable(name)
        total = None if frames is None else frames * sum(WEIGHTS.values())
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} (left {remaining})" if total else "{desc} {elapsed}"
        self.bar = tqdm(
            total=total, desc=self.name, bar_format=shape, disable=not show, leave=False, dynamic_ncols=True
        )

    def advance(self, stage: str, frames: int) -> None:
        """So many frames are through a stage ("encode", "sample" or "decode")."""
        try:
            self.bar.set_description_str(f"{self.name} {stage}", refresh=False)
            self.bar.update(frames * WEIGHTS[stage])
        except OSError:  # the terminal is gone; the work is not
            self.bar.disable = True

    def expect(self, frames: int) -> None:
        """The true number of frames is known now."""
        self.bar.total = frames * sum(WEIGHTS.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.bar.close()
