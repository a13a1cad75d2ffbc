"""The site: it builds without a warning, every link and anchor lives, no number is typed, nothing is left out."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import site_galleries
import site_reference
import yaml
from site_figures import FIGURE, with_figures
from site_notebooks import NBS, notebooks_of, parameters_of
from site_pages import filled
from site_reference import commands_below, help_of
from test_readme_figures import LINK

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md")) if "howto" not in path.parts}
CODE = re.compile(r"^```(?!\{fill\}).*?^```|`[^`\n]+`|^:[^\n]*$", re.MULTILINE | re.DOTALL)
PLACES = re.compile(r"(?<=: )\w+(/\w+)+ \| | \|\| [^\n]*")  # of a fence: whose picture, which figures to draw
TYPED = re.compile(r"\d+[.,]\d+|\d\d+|\d+\s?%")
NO_FIGURES = ("Prostate158", "prostate158", "95%", "arXiv 2506.10230", "arXiv 2507.06384")
NO_PROSE = re.compile(r'<(pre|code|script|style)\b.*?</\1>|<(div|span) class="math[^>]*>.*?</\2>', re.DOTALL)
MOST_MB = 40
ADDRESS = re.compile(r'<(?:a|link|script|img)\b[^>]*?\s(?:href|src)="([^"]*)"')
NAME = re.compile(r'\s(?:id|name)="([^"]*)"')


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_typed(page):
    """A number on a page would outlive the record that it came from."""
    prose = LINK.sub("]", PLACES.sub("", CODE.sub("", FIGURE.sub("", PAGES[page].read_text(encoding="utf-8")))))
    for words in NO_FIGURES:
        prose = prose.replace(words, "")
    assert not TYPED.findall(prose)


def test_a_typed_number_is_found():
    for prose in ("an AUC of 0.76", "on 200 reports", "5 % of them"):
        assert TYPED.search(CODE.sub("", prose))


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", DOCS]
    done = subprocess.run(
        [*command, "-d", out / "doctrees", ROOT, out / "html"], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


@pytest.fixture(scope="module")
def built(site):
    """Every page of the site by its path."""
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_and_anchor_lives(built):
    names = {path: set(map(unescape, NAME.findall(text))) for path, text in built.items()}
    dead = []
    for path, text in built.items():
        for address in set(ADDRESS.findall(text)):
            link = urlsplit(unescape(address))
            if link.scheme or link.netloc:
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            is_there = target.is_file() and (not link.fragment or unquote(link.fragment) in names.get(target, ()))
            dead += [] if is_there else [f"{path.name}: {address}"]
    assert not dead


@pytest.mark.slow
def test_the_site_is_small_and_needs_nothing_from_outside(site, built):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < MOST_MB * 1e6
    loaded = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*\s(?:src|href)="(https?:[^"]*)"')
    assert not [found for text in built.values() for found in loaded.findall(text)]


@pytest.mark.slow
def test_the_first_page_leads_on_without_javascript(site, built):
    """Title, picture, figures and the four doors stand in the page itself."""
    first = built[site / "docs" / "index.html"]
    for door in ("tutorials", "howto", "story", "records"):
        assert f'href="{door}.html"' in first
    assert "demo.png" in first
    assert "{{" not in first
    assert "docs/index.html" in built[site / "index.html"]


@pytest.mark.slow
def test_indexes_show_pictures_and_every_notebook_is_in_one(site, built):
    shown = re.compile(r"<img[^>]*sd-card-img-top")
    assert len(shown.findall(built[site / "docs" / "records.html"])) >= len(notebooks_of("records"))
    indexes = [text for path, text in built.items() if path.parent == site / "docs" or path.parent.name == "story"]
    listed = "\n".join([*indexes, built[site / "docs" / "reference" / "stages.html"]])
    for notebook in NBS.rglob("[!._]*.ipynb"):
        page = notebook.relative_to(NBS).with_suffix(".html").as_posix()
        assert f"nbs/{page}" in listed, page


@pytest.mark.slow
def test_no_formula_is_left_as_it_was_written(built):
    """A dollar outside code and mathematics is one end of a formula that was not read."""
    broken = [path.name for path, text in built.items() if "$" in NO_PROSE.sub("", text)]
    assert not broken


@pytest.mark.slow
def test_formulas_and_search_have_what_they_load(site):
    fonts = list((site / "_static" / "mathjax" / "output" / "chtml" / "fonts").rglob("*.woff"))
    assert len(fonts) >= 10
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for stem in ("counterfactu", "latent", "pirad"):
        assert f'"{stem}"' in index
