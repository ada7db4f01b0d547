"""Writes the HTML of the page. The page loads nothing from a network, and its content policy forbids it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.logger import printable
from projects.video_diffusion_sr.memory.workload import GIB
from projects.video_diffusion_sr.run_page.chart import chart
from projects.video_diffusion_sr.run_page.lines import Line, by_file
from projects.video_diffusion_sr.run_page.samples import Curve
from projects.video_diffusion_sr.run_page.style import CSS, SCRIPT

OPEN_FILES = 5  # details are unfolded if there are at most this many files
MOST_FILE_LINES = 60
ENDED_EARLY = "The run ended early; this is what was done until then."
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STATE_CLASSES = {"restored": "good", "skipped": "dim", "failed": "bad", "not restored": "warn"}
LEVELS = {"ERROR": "bad", "CRITICAL": "bad", "WARNING": "warn"}


@dataclass(frozen=True)
class Page:
    """The contents of the page.

    facts: the facts of the run, by name.
    started: time of the start of the run, as text.
    files: paths of all files of the run.
    done: entries of the restored files, see `entry_of`.
    outcomes: (path, "failed" or "skipped", message) of other files.
    lines: log lines of the run.
    folder: folder of the page.
    ended_early: whether the run was interrupted.
    """

    facts: Mapping[str, str]
    started: str
    files: Sequence[str]
    done: Sequence[Mapping[str, Any]]
    outcomes: Sequence[tuple[str, str, str]]
    lines: Sequence[Line]
    folder: Path
    ended_early: bool = False


@dataclass(frozen=True)
class File:
    """A file on the page.

    path: the input.
    state: "restored", "not restored", "failed" or "skipped".
    entry: its entry, see `entry_of`; None unless `state` is "restored".
    lines: its log lines.
    """

    path: str
    state: str
    entry: Mapping[str, Any] | None
    lines: Sequence[Line]


def page_text(page: Page) -> str:
    """The HTML of the page."""
    files, others = files_of(page)
    counts = {state: sum(file.state == state for file in files) for state in STATE_CLASSES}
    title = f"{page.facts['model']}: {counts['restored']} of {len(files)} file{'s' * (len(files) != 1)} restored"
    count = ", ".join(f'<span class="{STATE_CLASSES[state]}">{n} {state}</span>' for state, n in counts.items() if n)
    early = f' <span class="warn">{ENDED_EARLY}</span>' if page.ended_early else ""
    when = f"{page.started}, {page.facts['seconds']} s"
    body = [
        f'<h1>{escaped(title)}</h1><p class="dim">{escaped(when)}. {count}.{early}</p>',
        table(files),
        *(details(i, file, page.folder, len(files) <= OPEN_FILES) for i, file in enumerate(files) if has_more(file)),
        card("Settings", facts_table(page.facts)),
        card("Other lines of the run", listed(others)) if others else "",
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escaped(title)}</title>
<style>{CSS}</style></head><body><main>
{chr(10).join(body)}
</main><script>{SCRIPT}</script></body></html>
"""


def files_of(page: Page) -> tuple[list[File], list[Line]]:
    """(all files, those that failed first; the log lines that belong to no file)."""
    entries = {entry["path"]: entry for entry in page.done}
    outcomes = {path: (kind, text) for path, kind, text in page.outcomes}
    paths = sorted({*page.files, *entries, *outcomes})
    lines, others = by_file(page.lines, [Path(path).name for path in paths])
    files = []
    for path in paths:
        of_file = list(lines[printable(Path(path).name)])
        state = "restored" if path in entries else "not restored"
        if path in outcomes:
            state, text = outcomes[path]
            of_file.append(("ERROR" if state == "failed" else "INFO", text))
        files.append(File(path, state, entries.get(path), of_file))
    order = ("failed", "not restored", "restored", "skipped")
    return sorted(files, key=lambda file: order.index(file.state)), others


def has_more(file: File) -> bool:
    """Whether there are details of a file beyond its row in the table."""
    return bool(file.entry or file.lines)


def table(files: Sequence[File]) -> str:
    """The table with one row per file."""
    heads = ("frames", "size", "s", "frames/s", "peak GiB", "flicker")
    numbers = "".join(f'<th class="num">{head}</th>' for head in heads)
    rows = "\n".join(row(i, file, len(heads)) for i, file in enumerate(files))
    return f'<section class="scroll"><table><tr><th>file</th><th></th>{numbers}</tr>\n{rows}\n</table></section>'


def row(number: int, file: File, columns: int) -> str:
    """A row of the table: the file's name, its state and its figures."""
    name = escaped(Path(file.path).name)
    link = f'<a href="#f{number}">{name}</a>' if has_more(file) else name
    state = f'<td class="{STATE_CLASSES[file.state]}">{file.state}</td>'
    cells = [""] * columns
    if file.entry is not None:
        entry, sampled = file.entry, file.entry["samples"]
        flicker = sampled["flicker"] if sampled else None
        speed, memory = entry["frames"] / max(entry["seconds"], 1e-9), entry["memory"] / GIB
        cells = [
            str(entry["frames"]), sizes(entry), f"{entry['seconds']:.1f}", f"{speed:.2f}", f"{memory:.2f}",
            f"{flicker[0]:.2f} → {flicker[1]:.2f}" if flicker else "",
        ]  # fmt: skip
    return f'<tr><td class="name">{link}</td>{state}' + "".join(f'<td class="num">{c}</td>' for c in cells) + "</tr>"


def sizes(entry: Mapping[str, Any]) -> str:
    """The width and height of the result, and of the input if it is known."""
    height, width = entry["size"]
    before = f"{entry['samples']['input_size'][1]}×{entry['samples']['input_size'][0]} → " if entry["samples"] else ""
    return f"{before}{width}×{height}"


def details(number: int, file: File, folder: Path, unfolded: bool) -> str:
    """The pictures, the curve and the log lines of one file."""
    parts, about = [], escaped(file.path)
    if file.entry is not None:
        sampled = file.entry["samples"] or {"stills": (), "curve": None}
        about += f" → {link_to(file.entry['output'], folder)}"
        if sampled["stills"]:
            several = len(sampled["stills"]) > 1
            pairs = "\n".join(pair(still, several) for still in sampled["stills"])
            parts.append(f'<div class="pairs">\n{pairs}\n</div>')
        if sampled["curve"] and sampled["curve"]["times"]:
            parts.append(chart(Curve(**sampled["curve"])))
    parts.append(listed(file.lines) if file.lines else "")
    opened = " open" if unfolded or file.state == "failed" else ""
    head = f'<h2>{escaped(Path(file.path).name)}</h2> <span class="{STATE_CLASSES[file.state]}">{file.state}</span>'
    return (
        f'<details class="file" id="f{number}"{opened}><summary>{head}<p class="dim">{about}</p></summary>\n'
        + "\n".join(filter(None, parts))
        + "</details>"
    )


def pair(still: Mapping[str, Any], named: bool) -> str:
    """Two superimposed pictures with a slider between them."""
    height, width = still["size"]
    caption = f"<figcaption>{still['seconds']:.2f} s</figcaption>" if named else ""
    label = f"input and restored at {still['seconds']:.2f} s: drag to compare"
    images = "".join(
        f'<img class="{kind}" alt="{escaped}" src="data:image/webp;base64,{still[kind]}">'
        for kind, escaped in (("after", "restored"), ("before", "input"))
    )
    return (
        f'<figure><div class="pair" style="aspect-ratio:{width}/{height}">{images}<span class="l">input</span>'
        f'<span class="r">restored</span><input type="range" min="0" max="100" value="50" step="0.1" '
        f'aria-label="{label}"></div>{caption}</figure>'
    )


def link_to(path: str, folder: Path) -> str:
    """A link to a file, relative to the page's folder."""
    try:
        there = os.path.relpath(Path(path).resolve(), folder).replace(os.sep, "/")
    except ValueError:  # another drive
        return escaped(path)
    return f'<a href="./{escape(quote(os.fsencode(there)))}">{escaped(path)}</a>'


def facts_table(facts: Mapping[str, str]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in facts.items())
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def listed(lines: Sequence[Line]) -> str:
    """A list of log lines."""
    items = [f'<li class="{LEVELS.get(level, "")}">{escaped(text)}</li>' for level, text in lines[:MOST_FILE_LINES]]
    if len(lines) > MOST_FILE_LINES:
        items.append(f'<li class="dim">and {len(lines) - MOST_FILE_LINES} more</li>')
    return f'<ul class="lines">{"".join(items)}</ul>'


def card(title: str, content: str) -> str:
    """A section that the reader can unfold."""
    return f'<details class="card"><summary><h2>{escaped(title)}</h2></summary>{content}</details>'


def escaped(text: str) -> str:
    """Escape text, so that the name of a file can neither become a tag nor reverse the direction of writing."""
    return escape(printable(text))
