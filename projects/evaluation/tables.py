"""Formats the scores of clips: as lines for the terminal, as a Markdown table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from projects.evaluation.bootstrap import interval
from projects.evaluation.frames import set_of
from projects.evaluation.measures import BETTER_WHEN_LOWER

DECIMALS = {"psnr": 2, "psnr_y": 2, "vmaf": 2, "flicker": 3}  # of the others four in lists, three in tables


@dataclass(frozen=True)
class Score:
    """The scores of one clip: for each measure, its mean over frames."""

    name: str
    frames: int
    values: Mapping[str, float]


def mean_of(scores: Sequence[Score], name: str = "mean") -> Score:
    """The mean over clips. All clips have the same weight, whatever their lengths."""
    values = {measure: float(np.mean([s.values[measure] for s in scores])) for measure in scores[0].values}
    return Score(name, sum(s.frames for s in scores), values)


def by_set(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The clips of each set, in the order of the sets' first clips."""
    sets: dict[str, list[Score]] = {}
    for score in scores:
        sets.setdefault(set_of(score.name), []).append(score)
    return sets


def gains(scores: Sequence[Score], baseline: Sequence[Score], measure: str) -> list[float]:
    """Score of the result minus score of the baseline, for every clip."""
    return [s.values[measure] - b.values[measure] for s, b in zip(scores, baseline, strict=True)]


def listing(scores: Sequence[Score], baseline: Sequence[Score] | None) -> str:
    """One line per clip, one per set, the mean and its interval; with a baseline also its scores and the gains."""
    measures, sets = list(scores[0].values), by_set(scores)
    rows, base = list(scores), list(baseline or [])
    if len(sets) > 1:
        rows += [mean_of(scores_of_set, f"{name or '(no set)'}: mean") for name, scores_of_set in sets.items()]
        base += [mean_of(scores_of_set) for scores_of_set in by_set(baseline).values()] if baseline else []
    rows, base = [*rows, mean_of(scores)], [*base, mean_of(baseline)] if baseline else []
    width = max(len(row.name) for row in rows)
    head = f"{'clip':<{width}}  frames" + "".join(f"{m.upper():>10}" for m in measures)
    head += "".join(f"{'base ' + m.upper():>17}{'gain':>10}" for m in measures) if base else ""
    lines = [head]
    for i, row in enumerate(rows):
        line = f"{row.name:<{width}}  {row.frames:6d}" + "".join(f"{said(m, row.values[m]):>10}" for m in measures)
        for m in measures if base else []:
            gain = row.values[m] - base[i].values[m]
            line += f"{said(m, base[i].values[m]):>17}{said(m, gain, signed=True):>10}"
        lines.append(line)
    for m in measures:
        found = interval(gains(scores, baseline, m) if baseline else [s.values[m] for s in scores])
        if found is not None:
            what = "gain" if baseline else "mean"
            low, high = (said(m, x, signed=bool(baseline)) for x in found)
            lines.append(f"95 % interval of the {what} over clips, {m.upper()}: {low} to {high}")
    return "\n".join(lines)


def paper_table(methods: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table: for each set one row per measure, one column per method, the best value of a row in bold."""
    first = next(iter(methods.values()))
    lines = ["| set | measure | " + " | ".join(methods) + " |", "| --- " * (2 + len(methods)) + "|"]
    for name in by_set(first):
        for measure in first[0].values:
            means = [mean_of(by_set(scores)[name]).values[measure] for scores in methods.values()]
            best = min(means) if measure in BETTER_WHEN_LOWER else max(means)
            cells = [said(measure, value, in_table=True) for value in means]
            if measure != "laplacian" and len(means) > 1:  # its best value is 1, not the largest
                cells = [f"**{c}**" if v == best else c for c, v in zip(cells, means, strict=True)]
            arrow = "" if measure == "laplacian" else " ↓" if measure in BETTER_WHEN_LOWER else " ↑"
            lines.append(f"| {name or 'all'} | {measure.upper()}{arrow} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def said(measure: str, value: float, signed: bool = False, in_table: bool = False) -> str:
    """Format a score with the number of decimals of its measure."""
    return f"{value:{'+' if signed else ''}.{DECIMALS.get(measure, 3 if in_table else 4)}f}"


def report(scores: Sequence[Score], baseline: Sequence[Score] | None) -> dict[str, Any]:
    """The scores of one method, as a dictionary for JSON."""
    measures = list(scores[0].values)
    made = {
        "clips": [{"name": s.name, "frames": s.frames, **s.values} for s in scores],
        "sets": {name: dict(mean_of(part).values) for name, part in by_set(scores).items() if name},
        "mean": dict(mean_of(scores).values),
        "intervals": {m: interval([s.values[m] for s in scores]) for m in measures},
    }
    if baseline:
        made["baseline"] = report(baseline, None)
        made["gain"] = {m: float(np.mean(gains(scores, baseline, m))) for m in measures}
        made["gain_intervals"] = {m: interval(gains(scores, baseline, m)) for m in measures}
    return made
