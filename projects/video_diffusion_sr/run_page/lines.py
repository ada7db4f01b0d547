"""Collects the log lines of a run for the page, by file."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from common.logger import printable

MOST_LINES = 20_000  # most lines that are kept of a run
LONGEST = 1000  # characters
Line = tuple[str, str]  # level, text
NUMBER = re.compile(r"^\[\d+/\d+\] ")


class Lines(logging.Handler):
    """A log handler that keeps messages from level INFO on, and the outcomes of files from `outcome`.

    Attributes:
        kept: (level, text) of each message, in order.
        outcomes: (path, "failed" or "skipped", text) of files.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[tuple[str, str]] = []
        self.outcomes: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = NUMBER.sub("", printable(record.getMessage()))[:LONGEST]
        if (about := getattr(record, "outcome", None)) is not None:
            self.outcomes.append((*about, text))
        elif len(self.kept) < MOST_LINES:
            self.kept.append((record.levelname, text))


def outcome(path: Path, kind: str) -> dict[str, tuple[str, str]]:
    """The argument `extra` of a log call that reports the outcome of a file; kind: "failed" or "skipped"."""
    return {"outcome": (str(path), kind)}


def by_file(lines: Iterable[Line], names: Iterable[str]) -> tuple[dict[str, list[Line]], list[Line]]:
    """(lines of each file, by the name with which they begin; lines that begin with no file's name).

    Files of the same name in several folders get the same lines, because lines do not contain the folder.
    """
    found: dict[str, list[Line]] = {printable(name): [] for name in names}
    lengths = sorted({len(name) for name in found}, reverse=True)
    others: list[Line] = []
    for line in lines:
        text = line[1]
        ends = (n for n in lengths if text[n : n + 1] in (":", " ") and text[:n] in found)
        name = next(ends, None)
        (others if name is None else found[text[:name]]).append(line)
    return found, others
