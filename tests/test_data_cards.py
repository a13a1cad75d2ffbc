"""Every number of a card is the record's own. Filled in by `PYTHONPATH=docs python tests/test_data_cards.py`."""

import json
import re
from pathlib import Path

import pytest
from site_figures import in_digits

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "nbs" / "records"
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
TABLE = re.compile(r"<!-- figures: (\w+) -->\n((?:\|.*\n?)+)")
PUBLISHED = re.compile(r"<!-- published: (.+) -->\n((?:\|.*\n?)+)")  # others' figures, with where they stand
ROW = re.compile(r"^\| (?!figure \|)(.+?) \| (.+?) \|$", re.MULTILINE)


def said(figure) -> str:
    """A figure as a card writes it: a number, or an estimate with its interval and n."""
    if isinstance(figure, dict):
        value, low, high = (in_digits(figure[part], ".3f") for part in ("value", "low", "high"))
        return f"{value} [{low}, {high}], n = {figure['n']}"
    if isinstance(figure, float):
        return f"{figure:g}"
    return str(figure)


def flat(figures: dict, prefix: str = "") -> dict:
    """Figures by name, those of an inner table as outer.inner."""
    found = {}
    for name, figure in figures.items():
        is_table = isinstance(figure, dict) and "value" not in figure
        if is_table:
            found |= flat(figure, f"{prefix}{name}.")
        else:
            found[prefix + name] = figure
    return found


def filled_table(found: re.Match) -> str:
    """A card's table with the values of its record; a dash where there is no record yet."""
    name, rows = found.groups()
    record = RECORDS / f"{name}.metrics.json"
    figures = flat(json.loads(record.read_text())) if record.is_file() else None

    def filled_row(row: re.Match) -> str:
        figure = row[1]
        value = "–" if figures is None else said(figures[figure])
        return f"| {figure} | {value} |"

    return f"<!-- figures: {name} -->\n" + ROW.sub(filled_row, rows)


def filled(card: str) -> str:
    return TABLE.sub(filled_table, card)


def test_there_are_cards():
    assert CARDS


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_says_what_its_record_says(card):
    """A number typed by hand, or a record made anew, would part a card from its record."""
    text = card.read_text()
    assert TABLE.search(text) or PUBLISHED.search(text), "a card without figures is a claim"
    assert text == filled(text), "run: PYTHONPATH=docs python tests/test_data_cards.py"


if __name__ == "__main__":
    for path in CARDS:
        path.write_text(filled(path.read_text()))
