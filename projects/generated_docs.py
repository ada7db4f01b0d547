"""The parts of the documentation that programs write: the README's hardware table and the list of all flags.

    python projects/generated_docs.py --write

Without `--write` it names the pages that differ from what it would write, and ends with 1 if there is one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from projects import hardware_table
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.cli_parser import parser as inference_parser
from projects.video_diffusion_sr.presets import SEEDVR2_3B


def flags() -> str:
    """Markdown with a heading and a table for each group of the inference scripts' flags."""
    program = inference_parser(SEEDVR2_3B)
    parts = []
    for group in program._action_groups:  # argparse has no public list of its groups
        actions = [action for action in group._group_actions if action.option_strings != ["-h", "--help"]]
        if actions:
            title = str(group.title)
            rows = [f"| {flag(action)} | {meaning(action)} |" for action in actions]
            parts.append("\n".join([f"### {title[0].upper()}{title[1:]}\n", "| flag | |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def flag(action: argparse.Action) -> str:
    """A flag with its values, as a cell of a table."""
    name = action.option_strings[-1]
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    value = f"[{value}]" if action.nargs == "?" else f"{value} ..." if action.nargs == "+" else value
    return f"`{name} {value}`".replace(" `", "`").replace("|", r"\|")


def meaning(action: argparse.Action) -> str:
    """The help text of a flag, as in `--help`, as a cell of a table."""
    return (str(action.help) % vars(action)).replace("|", r"\|")


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {  # page -> name of a block -> function that makes its text
    "README.md": {"hardware": hardware_table.table},
    "docs/command_line.md": {"flags": flags},
}


def rewritten(page: str, text: str) -> str:
    """The text of a page with its blocks generated again.

    A block is between `<!-- generated: NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no such block.
    """
    for name, make in BLOCKS[page].items():
        start, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        if text.count(start) != 1 or end not in text.split(start)[1]:
            raise ValueError(f"{page}: there must be one block between {start.strip()!r} and {end!r}")
        before, rest = text.split(start)
        text = f"{before}{start}{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the pages with the generated text, or write them. Returns 1 if a compared page differs."""
    parser = new_parser(__doc__)
    parser.add_argument("--write", action="store_true", help="write the pages")
    write = parser.parse_args(arguments).write
    differ = 0
    for page in BLOCKS:
        text = (ROOT / page).read_text()
        made = rewritten(page, text)
        if made == text:
            continue
        if write:
            (ROOT / page).write_text(made)
        else:
            differ += 1
            print(f"{page} is out of date; python projects/generated_docs.py --write")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(run_program(main))
