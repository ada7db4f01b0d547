"""The tables of docs/recipe_evidence.md, computed from the raw rows beside it.

python projects/evidence_tables.py [--check]
"""

import csv
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from projects.evaluation.bootstrap import interval
from projects.program import new_parser, run_program

PAGE, FOLDER = ROOT / "docs/recipe_evidence.md", ROOT / "docs/recipe_evidence"
OF_SET = {"two_sample": "two-sample", "swd": "swd", "spectrum": "spectrum, dB", "finest": "finest, dB"}


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, by the names in its header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))


def of_known_answer(lines: list[dict[str, str]]) -> str:
    """Format the rows with the values of all runs: those of long stages and, after a semicolon, those of short ones."""
    rows = []
    for name in dict.fromkeys(line["row"] for line in lines):
        cells = []
        for key in ("near", "size", "balance", "off", "error"):
            kinds = ([x[key] for x in lines if x["row"] == name and x["stages"] == kind] for kind in ("long", "short"))
            cells.append("; ".join(" / ".join(f"{float(x):.2f}" for x in values) or "-" for values in kinds))
        rows.append([name, *cells])
    return markdown(["row", "near", "\\|p\\|", "balance", "off", "error"], rows)


def of_photographs(lines: list[dict[str, str]]) -> str:
    """Format the rows with the means over pictures and the measures of the set."""
    rows = []
    for name in dict.fromkeys(line["row"] for line in lines):
        of_row = [line for line in lines if line["row"] == name]
        psnr, ssim = (np.array([float(x["value"]) for x in of_row if x["measure"] == key]) for key in ("psnr", "ssim"))
        bounds = interval(psnr.tolist())
        assert bounds is not None, f"{name} has fewer than two pictures"
        low, high = bounds
        of_set = {x["measure"]: float(x["value"]) for x in of_row if not x["picture"]}
        figures = [f"{of_set['two_sample']:.3f}", *(f"{of_set[key]:.1f}" for key in list(OF_SET)[1:])]
        rows.append([name, f"{psnr.mean():.2f} ({low:.2f} to {high:.2f})", f"{ssim.mean():.3f}", *figures])
    return markdown(["row", "PSNR, dB", "SSIM", *OF_SET.values()], rows)


TABLES: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "known_answer": of_known_answer,
    "photographs": of_photographs,
}


def with_tables(page: str, folder: Path) -> str:
    """The page with every table computed from its rows; a table without a file of rows is empty."""

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        rows = folder / f"{name}.csv"
        made = f"{TABLES[name](read(rows))}\n" if rows.is_file() else ""
        return f"<!-- table {name} -->\n{made}<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", table, page, flags=re.S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables into the page, or with --check compare them with the page and return 1 if they differ."""
    parser = new_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where the page differs")
    flags = parser.parse_args(arguments)
    before = PAGE.read_text()
    after = with_tables(before, FOLDER)
    if flags.check:
        return int(before != after)
    PAGE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
