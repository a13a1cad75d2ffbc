"""Figures of records on the pages: `{{RECORD[KEY]:FORM}}` becomes the number that the record's metrics file holds.

FORM is a format of Python's (`.2f`, the default; `,`), or `interval`: the value with its 95% interval.
"""

import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "nbs" / "records"
FIGURE = re.compile(r"\{\{(?P<record>\w+)\[(?P<key>[^\]]+)\](?::(?P<form>[^}]*))?\}\}")
INTERVAL = "{value:.2f}\u00a0[{low:.2f},\u00a0{high:.2f}]"  # in one piece on a line


def flat(figures: dict, prefix: str = "") -> dict:
    """Name every figure by its dotted key; an estimate is there whole, and by its parts (`KEY.n`)."""
    found = {}
    for key, figure in figures.items():
        if not isinstance(figure, dict):
            found[prefix + key] = figure
            continue
        if "value" in figure:
            found[prefix + key] = figure
        found |= flat(figure, f"{prefix}{key}.")
    return found


@cache
def figures_of(record: str) -> dict:
    """Read a record's metrics file."""
    return flat(json.loads((RECORDS / f"{record}.metrics.json").read_text(encoding="utf-8")))


def written(found: re.Match) -> str:
    """Write one figure.

    Raises:
        LookupError: there is no such record, or no such figure in it.
    """
    record, key, form = found["record"], found["key"], found["form"] or ".2f"
    if not (RECORDS / f"{record}.metrics.json").is_file():
        raise LookupError(f"{found[0]}: found no record '{record}', expected a name of nbs/records")
    figures = figures_of(record)
    if key not in figures:
        raise LookupError(f"{found[0]}: found no figure '{key}' in the record '{record}'; look into its metrics.json")
    figure = figures[key]
    if form == "interval":
        return INTERVAL.format(**figure)
    return format(figure["value"] if isinstance(figure, dict) else figure, form)


def with_figures(text: str) -> str:
    """Write all figures of a page."""
    return FIGURE.sub(written, text)
