"""Every number of a card is the record's own. `python tests/test_data_cards.py` fills the cards in from the records."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "nbs" / "records"
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
TABLE = re.compile(r"<!-- figures: (\w+) -->\n((?:\|.*\n?)+)")
ROW = re.compile(r"^\| (?!figure \|)(.+?) \| (.+?) \|$", re.MULTILINE)


def said(value) -> str:
    """A figure as a card writes it: a number, or an estimate with its interval and n."""
    if isinstance(value, dict):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}], n = {value['n']}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(figures: dict, prefix: str = "") -> dict:
    """Figures by name, those of an inner table as outer.inner."""
    found = {}
    for name, value in figures.items():
        is_table = isinstance(value, dict) and "value" not in value
        found |= flat(value, f"{prefix}{name}.") if is_table else {prefix + name: value}
    return found


def filled(card: str) -> str:
    """The card with every table's values taken from its record; a dash where there is no record yet."""

    def table(found):
        record = RECORDS / f"{found[1]}.metrics.json"
        figures = flat(json.loads(record.read_text())) if record.is_file() else None

        def row(line):
            value = "–" if figures is None else said(figures[line[1]])
            return f"| {line[1]} | {value} |"

        return f"<!-- figures: {found[1]} -->\n" + ROW.sub(row, found[2])

    return TABLE.sub(table, card)


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_says_what_its_record_says(card):
    text = card.read_text()
    assert TABLE.search(text), "a card without figures is a claim"
    assert text == filled(text), "run: python tests/test_data_cards.py"


if __name__ == "__main__":
    for path in CARDS:
        path.write_text(filled(path.read_text()))
