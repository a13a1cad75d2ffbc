"""The built site: no warning, every link and anchor lives, small; in a browser, on a phone, without JavaScript, dark.

`SHOTS=folder` keeps there what the browser saw; else it lies in pytest's temporary folder.
"""

import re
import subprocess
import sys
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from browser import NEEDS_BROWSER, chromium, folder_of_shots
from site_notebooks import NBS, notebooks_of

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 40
NO_PROSE = re.compile(r'<(pre|code|script|style)\b.*?</\1>|<(div|span) class="math[^>]*>.*?</\2>', re.DOTALL)
ADDRESS = re.compile(r'<(?:a|link|script|img)\b[^>]*?\s(?:href|src)="([^"]*)"')
NAME = re.compile(r'\s(?:id|name)="([^"]*)"')
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", ROOT / "docs"]
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
def test_the_first_page_has_the_doors_in_itself(site, built):
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
    for notebook in NBS.glob("*/**/[!._]*.ipynb"):
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


def in_browser(test):
    """Mark a test that needs Chromium and the built site."""
    for mark in [pytest.mark.slow, *NEEDS_BROWSER]:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return folder_of_shots(tmp_path_factory, "site")


def left(request) -> bool:
    """Say whether a request failed only because the reader went to another page."""
    return request.failure == "net::ERR_ABORTED"


@pytest.fixture
def opened(browser):
    """Open pages: gives a function of size and settings, whose pages collect what went wrong in them."""
    contexts = []

    def new_page(size, **settings):
        contexts.append(browser.new_context(viewport=size, **settings))
        page = contexts[-1].new_page()
        page.wrong = []
        page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("requestfailed", lambda request: page.wrong.extend([] if left(request) else [request.url]))
        return page

    yield new_page
    for context in contexts:
        context.close()


FORMULAS_DRAWN = "async () => { if (document.querySelector('.math')) await window.MathJax.startup.promise; }"
# what stands out of the page to the right, and in no box that scrolls; and formulas that were not understood
SEEN_WRONG = """() => {
    const width = document.documentElement.clientWidth;
    const boxed = e => e && e !== document.body &&
        (getComputedStyle(e).overflowX !== 'visible' || boxed(e.parentElement));
    const out = [...document.querySelectorAll('article *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width && box.right > width + 1 && !boxed(e);
    });
    const scrolls = document.documentElement.scrollWidth > width ? ['the page scrolls sideways'] : [];
    const broken = [...document.querySelectorAll('mjx-merror')];
    const lost = [...document.images].filter(e => e.complete && !e.naturalWidth);
    return [...scrolls, ...[...out, ...broken, ...lost].map(e => e.outerHTML.slice(0, 120))];
}"""


@in_browser
def test_every_page_fits_a_phone_and_has_no_error(site, built, opened):
    page = opened(PHONE)
    found = {}
    lasting = [path for path, text in built.items() if 'http-equiv="refresh"' not in text]
    assert len(lasting) == len(built) - 1, "the first address alone leads on to another page"
    for path in sorted(lasting):
        page.wrong.clear()
        page.goto(path.as_uri())
        page.evaluate(FORMULAS_DRAWN)
        wrong = [*page.wrong, *page.evaluate(SEEN_WRONG)]
        if wrong:
            found[path.relative_to(site).as_posix()] = wrong
    assert not found


@in_browser
def test_a_page_that_is_too_wide_is_found(opened, tmp_path):
    """What the test above would say of a bad page."""
    bad = tmp_path / "bad.html"
    bad.write_text("<body><article><pre style='width:900px'>x</pre></article><img src='none.png'><script>no()</script>")
    page = opened(PHONE)
    page.goto(bad.as_uri())
    assert [words[:12] for words in page.evaluate(SEEN_WRONG)] == ["the page scr", '<pre style="', '<img src="no']
    assert any("no is not defined" in words for words in page.wrong)
    assert any(words.endswith("none.png") for words in page.wrong)


@pytest.fixture(scope="module")
def served(site):
    """The site's address, as a web server gives it."""
    handler = partial(QuietHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@in_browser
@pytest.mark.parametrize("way", ["served", "file"])
def test_search_finds_a_term(way, site, served, opened, shots):
    """From the box in the side bar of the first page to a page in which the term stands."""
    page = opened(DESK)
    page.goto((served if way == "served" else site.as_uri()) + "/docs/index.html")
    page.fill("input[name=q]", "counterfactual")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("#search-results li a")
    page.get_by_text("Search finished").wait_for()
    page.screenshot(path=shots / f"search_{way}.png")
    hits = page.locator("#search-results li > a").all_inner_texts()
    assert any("counterfactual" in hit.lower() for hit in hits[:3]), hits
    assert way == "file" or not page.wrong  # the lines below each hit are fetched, which files are not
    page.click("#search-results li a")
    assert "counterfactual" in page.locator("article").inner_text().lower()


@in_browser
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_page_leads_on_without_javascript(size, site, opened, shots):
    page = opened(size, java_script_enabled=False)
    page.goto((site / "docs" / "index.html").as_uri())
    page.screenshot(path=shots / f"without_javascript_{size['width']}.png", full_page=True)
    doors = page.locator(".doors .sd-card")
    assert doors.count() == 4
    for number in range(4):
        page.goto((site / "docs" / "index.html").as_uri())
        assert page.locator("article h1").is_visible()
        assert page.locator("article img").first.is_visible()
        doors.nth(number).click()
        assert page.locator("article h1").is_visible()
        assert page.url.endswith(("tutorials.html", "howto.html", "story.html", "records.html"))
    assert not page.wrong


# words whose colour is too near to that of what lies behind them (WCAG: a ratio of 4.5, 3 for large ones)
HARD_TO_READ = """() => {
    const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
    const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const clear = colour => numbers(colour)[3] === 0;
    const behind = e => !e ? 'rgb(255, 255, 255)' :
        clear(getComputedStyle(e).backgroundColor) ? behind(e.parentElement) : getComputedStyle(e).backgroundColor;
    const words = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    const found = {};
    for (const e of document.querySelectorAll('body *')) {
        if (!words(e) || !e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
        const style = getComputedStyle(e);
        const [dark, bright] = [light(style.color), light(behind(e))].sort((a, b) => a - b);
        const ratio = (bright + 0.05) / (dark + 0.05);
        if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
            found[`${style.color} on ${behind(e)}: ${ratio.toFixed(1)}`] = words(e).slice(0, 60);
    }
    return found;
}"""


@in_browser
def test_words_that_are_hard_to_read_are_found(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<body><p style='color:#999'>faint<p style='color:#555'>plain<h1 style='color:#888'>large</h1>")
    page = opened(DESK)
    page.goto(bad.as_uri())
    assert list(page.evaluate(HARD_TO_READ).values()) == ["faint"]


LOOKED_AT = [
    "docs/index",
    "docs/tutorials",
    "docs/howto/own_exams",
    "docs/story/3_models",
    "docs/records",
    "docs/reference/glossary",
    "nbs/tutorials/02_change_a_word",
    "nbs/3_models/33_adapter",
    "nbs/records/adapt",
]


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_lies_behind_them(scheme, site, opened, shots):
    desk, phone = opened(DESK, color_scheme=scheme), opened(PHONE, color_scheme=scheme)
    found = {}
    for name in LOOKED_AT:
        for page, size in ((desk, "desk"), (phone, "phone")):
            page.goto((site / f"{name}.html").as_uri())
            page.evaluate(FORMULAS_DRAWN)
            page.screenshot(path=shots / f"{name.replace('/', '_')}_{scheme}_{size}.png", full_page=True)
        found |= {f"{name}: {colours}": words for colours, words in desk.evaluate(HARD_TO_READ).items()}
    assert not found
