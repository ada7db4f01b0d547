"""For people who would rather look than read: input beside result, in a folder `compare` beside the results."""

from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from data.media import MediaInfo
from data.media.preview import SideBySide, contact_sheet

FOLDER = "compare"
STILLS = 6  # rows of a contact sheet


class Comparison:
    """Side-by-side clip (or picture) of one file, and for clips a contact sheet of stills over its whole length.

    A context manager that takes frames as they are made. Nothing is written unless `wanted`, or after an error.

    Args:
        output: the result that it stands beside. info, size: as for the result's writer.
    """

    def __init__(
        self, output: Path, info: MediaInfo, size: tuple[int, int], wanted: bool, frame_rate: Fraction | None = None
    ) -> None:
        folder = output.parent / FOLDER
        self.clip = SideBySide(folder / output.name, info, size, frame_rate=frame_rate) if wanted else None
        self.sheet = folder / f"{output.stem}.png" if wanted and info.kind != "image" else None
        self.stills: list[tuple[str, Tensor, Tensor]] = []
        self.seen, self.every = 0, 1

    def write(self, inputs: Tensor, outputs: Tensor, times: Sequence[Fraction]) -> None:
        """Append frames, u8 [T, 3, h, w] each: the resized input and the result."""
        if self.clip is None:
            return
        self.clip.write(inputs, outputs, times)
        for before, after, time in zip(inputs, outputs, times, strict=True):
            if self.seen % self.every == 0:
                self.stills.append((f"bicubic, {float(time):.2f} s", before, after))
            self.seen += 1
            if len(self.stills) == 2 * STILLS:  # the length is unknown until the end: keep every second so far
                self.stills, self.every = self.stills[::2], 2 * self.every

    def __enter__(self) -> Self:
        (self.clip or nullcontext()).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self.clip or nullcontext()).__exit__(kind, error, trace)
        if kind is None and self.sheet is not None:
            count = min(STILLS, len(self.stills))
            chosen = [self.stills[i * len(self.stills) // count] for i in range(count)]
            contact_sheet(chosen, self.sheet)
