"""Decimals and percentages in the prose of cards, how-to pages and records are a record's own figures, rounded."""

import re
from pathlib import Path

import nbformat
import pytest
from site_figures import figures_of, with_figures
from typed import TABLE, prose_of, strangers, without

ROOT = Path(__file__).resolve().parents[1]
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
RECORDS = sorted((ROOT / "nbs" / "records").glob("[!._]*.ipynb"))
NAMED = re.compile(r"nbs/records/(\w+)\.ipynb|<!-- figures: (\w+) -->")
NO_FIGURES = ("CC BY-NC 4.0", "10.1186/s13244", "arXiv 2506.10230", "arXiv 2507.06384", "0.5 at chance")
OLD = {  # what older texts say beside their records; may only shrink
    "adapt.ipynb": ["6.25", "12.5"],  # the shares of exams that its design names
    "augment.ipynb": ["74%"],  # the paper's
}


def unheld(text: str, records: set[str]) -> list[str]:
    """What the prose of a text says that no figure of some records is."""
    figures = {f"{record}.{key}": one for record in records for key, one in figures_of(record).items()}
    return strangers(without(TABLE.sub("", prose_of(text)), NO_FIGURES), figures)


def unheld_of_notebook(path: Path) -> list[str]:
    """What a record's prose says that is neither a figure of its own nor stands in its code."""
    cells = nbformat.read(path, 4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    in_code = set(re.findall(r"\d+\.\d+|\d+", code))
    return [number for number in unheld(prose, {path.stem}) if number.rstrip("% \u00a0") not in in_code]


@pytest.mark.parametrize("page", HOWTO, ids=lambda path: path.stem)
def test_a_how_to_page_types_no_figure(page):
    assert not unheld(page.read_text(encoding="utf-8"), set())


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_says_what_its_records_say(card):
    text = card.read_text(encoding="utf-8")
    records = {name for found in NAMED.findall(text) for name in found if name}
    assert unheld(text, records) == OLD.get(card.name, [])


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_what_it_measured(record):
    assert unheld_of_notebook(record) == OLD.get(record.name, [])


def test_what_is_no_figure_of_the_record_is_found():
    said = with_figures("{{head[histology.ceiling]}}, {{head[histology.seed 0]:interval}}, {{head[histology.seed 1]}}")
    assert not unheld(f"an AUC of {said}, `0.11`, PI-RADS v2.1, 0.78×0.78 mm", {"head"})
    assert unheld("an AUC of 0.11, 11% of them, 3.14", {"head"}) == ["0.11", "11%", "3.14"]
    one, other = (with_figures(f"{{{{head[{rule}.seed 0]:interval}}}}") for rule in ("histology", "pirads"))
    mixed = one[: one.index("[")] + other[other.index("[") :]
    assert unheld(f"an AUC of {mixed}", {"head"}) == [mixed]
