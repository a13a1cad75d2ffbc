"""Figures of records on the pages: `{{RECORD[KEY]:FORM}}` becomes the number that the record's metrics file holds.

FORM is a format of Python's (`.2f`, the default; `,`), `word`: a small number spelt, or `interval`: the value with its
95% interval. Halves are rounded up, here as in README and on the cards.
"""

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "nbs" / "records"
FIGURE = re.compile(r"\{\{(?P<record>\w+)\[(?P<key>[^\]]+)\](?::(?P<form>[^}]*))?\}\}")
INTERVAL = "{value}\u00a0[{low},\u00a0{high}]"  # in one piece on a line
FIXED = re.compile(r",?\.(\d+)f")
SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def in_digits(number: float, form: str = ".2f") -> str:
    """Write a number as Python's format does, but round a half up: 0.945 is 0.95, not 0.94 as its float lies."""
    fixed = FIXED.fullmatch(form)
    if fixed:
        number = Decimal(str(number)).quantize(Decimal(1).scaleb(-int(fixed[1])), ROUND_HALF_UP)
    return format(number, form)


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
        return INTERVAL.format(**{part: in_digits(figure[part]) for part in ("value", "low", "high")})
    if form == "word":
        return SMALL[figure]
    return in_digits(figure["value"] if isinstance(figure, dict) else figure, form)


def with_figures(text: str) -> str:
    """Write all figures of a page."""
    return FIGURE.sub(written, text)
