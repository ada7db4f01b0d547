"""Progress and cancellation of a run."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from seedvr.errors import Cancelled

Callback = Callable[[str, int, int | None], None]


class Flag(Protocol):
    """A flag that stops a run, such as a threading.Event."""

    def is_set(self) -> bool: ...


class Report:
    """Receives the progress of one clip from the pipeline, and passes it to a callback.

    Args:
        callback: called with the stage ("encode", "sample" or "decode"), the number of frames that have passed it, and
            the number of all frames (None while it is unknown).
        cancel: a flag, checked between chunks; once it is set, the run ends with `Cancelled`.
        total: the number of all frames, if known.
    """

    def __init__(self, callback: Callback | None = None, cancel: Flag | None = None, total: int | None = None) -> None:
        self.callback, self.cancel, self.total = callback, cancel, total
        self.done: dict[str, int] = {}

    def advance(self, stage: str, frames: int) -> None:
        """Report that `frames` more frames have passed a stage."""
        self.done[stage] = self.done.get(stage, 0) + frames
        if self.callback is not None:
            done = (
                self.done[stage] if self.total is None else min(self.done[stage], self.total)
            )  # latents are rounded up
            self.callback(stage, done, self.total)
        self.check()

    def expect(self, frames: int) -> None:
        """Set the exact number of all frames."""
        self.total = frames

    def expecting(self, frames: int | None) -> Self:
        """Set the number of all frames from the file's header. Returns self."""
        self.total = frames
        return self

    def check(self) -> None:
        """Raise `Cancelled` if the caller has set the flag."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("cancelled: there is no result")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing; a report has nothing to close."""
