"""What the site is made of: no number is typed, no record, command or key of a recipe is left out."""

import re
from pathlib import Path

import pytest
import site_galleries
import site_reference
import yaml
from site_figures import FIGURE, SMALL, in_digits, with_figures
from site_notebooks import NBS, notebooks_of, parameters_of
from site_pages import filled
from site_reference import commands_below, help_of
from typed import TYPED, prose_of, without

from ccella.organs.prostate.writer import READERS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md")) if "howto" not in path.parts}
PLACES = re.compile(r"(?<=: )\w+(/\w+)+ \| | \|\| [^\n]*")  # of a fence: whose picture, which figures to draw
NO_FIGURES = ("Prostate158", "prostate158", "95%", "arXiv 2506.10230", "arXiv 2507.06384", "two exams at one height")
HELD = {  # small numbers in words, each with what it counts
    "story/2_organs.md": f"one of {SMALL[len(READERS)]} readers",
    "index.md": "with {{ablation[ccella.FID 3D.n]:word}} seeds each",
    "records.md": "in 3D at {{ablation[ccella.FID 3D.n]:word}} seeds",
    "tutorials.md": "on {{demo[cores]:word}} cores",
}


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_typed(page):
    """A number on a page would outlive the record that it came from."""
    text = FIGURE.sub("", PAGES[page].read_text(encoding="utf-8"))
    held = with_figures(HELD.get(page, ""))
    assert held in text, f"write: {held}"
    assert not TYPED.findall(without(PLACES.sub("", prose_of(text)), (*NO_FIGURES, *filter(None, [held]))))


def test_a_typed_number_is_found():
    for prose in ("an AUC of 0.76", "on 200 reports", "5 % of them", "with three seeds", "9 held-out exams"):
        assert TYPED.search(prose_of(prose))
    for prose in ("`0.76`", "[the paper](https://arxiv.org/abs/2506.10230)", "of three sequences"):
        assert not TYPED.search(prose_of(prose))


NAMELESS = re.compile(r"^\|(?:[^|\n]+\|)+\s*\|\n\|[-|: ]+\|$", re.MULTILINE)


WITH_TABLES = sorted([*DOCS.rglob("*.md"), *(ROOT / "data_cards").glob("*.md")])


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda path: path.stem)
def test_the_last_column_of_a_table_has_a_name(page):
    """A stranger cannot tell what stands in a column without one."""
    assert not NAMELESS.findall(filled(page.read_text(encoding="utf-8")))


def test_a_column_without_a_name_is_found():
    assert NAMELESS.findall("| recipe | parent |  |\n|---|---|---|\n| a | b | c |")
    assert not NAMELESS.findall("| recipe | parent | what it is |\n|---|---|---|\n| a | b | |\n| c | d | e |")


def test_a_half_is_rounded_up():
    """Python's own format gives 0.94: the float next to 0.945 lies below it."""
    assert in_digits(0.945) == "0.95"
    assert in_digits(-0.945, ".2f") == "-0.95"
    assert in_digits(2.5, ".0f") == "3"
    assert in_digits(1234567, ",") == "1,234,567"


def test_a_figure_is_its_records_own():
    assert with_figures("{{head[test]:d}} reports") == "1000 reports"
    assert re.fullmatch(r"\d\.\d\d\s\[\d\.\d\d,\s\d\.\d\d\]", with_figures("{{steering[real.side]:interval}}"))
    assert with_figures("{{steering[real.side.n]:d}} {{steering[real.side]:.1f}}") == "200 0.9"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("{{nowhere[x]}}", "found no record 'nowhere'"),
        ("{{steering[real.colour]}}", "found no figure 'real.colour'"),
        ("```{fill} nothing\n```", "expected one of gallery"),
        ("```{fill} flow\nroom: nowhere | does nothing\n```", "found no module 'nowhere'"),
    ],
)
def test_what_is_not_there_stops_the_build(page, said):
    with pytest.raises(LookupError, match=re.escape(said)):
        filled(page)


def test_every_record_has_its_finding(monkeypatch, tmp_path):
    """A record that stands under no question is named."""
    site_galleries.record_pages()
    added = [*notebooks_of("records"), tmp_path / "added.ipynb"]
    monkeypatch.setattr(site_galleries, "notebooks_of", lambda _: added)
    with pytest.raises(LookupError, match="no finding of added"):
        site_galleries.record_pages()


def test_every_command_has_its_help_page():
    import typer

    from ccella.cli import app

    page = site_reference.commands()
    every = list(commands_below(typer.main.get_command(app), []))
    assert len(every) >= 20
    for words in every:
        assert f"## `ccella {' '.join(words)}`\n" in page
    assert help_of(["generate"]) in page
    assert "--report" in help_of(["generate"])
    assert max(len(line) for line in page.splitlines()) <= site_reference.HELP_COLUMNS


def test_every_key_of_a_recipe_is_told_with_its_meaning():
    """A key without a comment beside it in the code has no meaning to show."""
    from ccella.recipe import Recipe

    page = site_reference.recipe_keys()
    for key in Recipe().flat():
        piece, _, last = key.rpartition(".")
        assert f"| `{last}` |" in page or f"| `{piece.rpartition('.')[2]}` |" in page, key
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) >= 120
    assert not [key for key, _, meaning in rows if not meaning.strip()]
    assert "| `steps` | `1000` | from noise to a latent |" in page


def test_a_default_is_shown_as_yaml_has_it():
    for value in ((2, 98), None, False, "epsilon", 1e-4, {"gland": 1.0}):
        given = list(value) if isinstance(value, tuple) else value
        assert yaml.safe_load(site_reference.shown(value)) == given


def test_a_stages_parameters_are_read_from_its_cell():
    found = {name: told for name, *told in parameters_of(NBS / "experiments" / "01_cohort.ipynb")}
    assert {"run", "recipe", "seed", "source"} <= found.keys()
    assert found["fresh"] == ["int", "80", "phantoms for testing"]
    assert "None" in found["source"][1]
    assert found["source"][2] == "a cohort folder; None: phantoms"
