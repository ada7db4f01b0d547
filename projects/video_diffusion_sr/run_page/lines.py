"""Collects the log lines of a run for the page, by file."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from common.logger import printable

MOST_LINES = 20_000  # of a run
LONGEST = 1000  # characters
Line = tuple[str, str]  # level, text
NUMBER = re.compile(r"^\[\d+/\d+\] ")


class Lines(logging.Handler):
    """Keeps (level, text) of every message from INFO on, and what became of files where a message says so.

    Attributes:
        kept: in order. outcomes: (path, "failed" or "skipped", text).
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
    """For `extra` of a message: this is what became of a file. kind: "failed" or "skipped"."""
    return {"outcome": (str(path), kind)}


def by_file(lines: Iterable[Line], names: Iterable[str]) -> tuple[dict[str, list[Line]], list[Line]]:
    """Lines by the file's name with which they begin, and those that begin with none.

    Files of one name in several folders cannot be told apart by a line, so each of them has it.
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
