"""Cards with pictures: galleries of notebooks, records with what was found, data cards."""

import hashlib
import re
import struct

from site_figures import figures_of
from site_notebooks import NBS, ROOT, Front, front_of, notebooks_of

PICTURES = ROOT / "_docs" / "pictures"
GRID = "::::{{grid}} 1 2 {columns} {columns}\n:gutter: 3\n:class-container: gallery\n\n{cards}\n::::\n"
PNG = b"\x89PNG"
PHOTOGRAPH = 0.15  # bytes a pixel: pictures of exams take more, curves less
PLOT_LEFT, PLOT_RIGHT = 270, 560
PLOT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="17">
{marks}</svg>
"""
MARK = """<text x="245" y="{text}" text-anchor="end">{label}</text>
<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="#0072b2" stroke-width="4"/>
<circle cx="{x:.1f}" cy="{y}" r="7" fill="#0072b2"/><text x="575" y="{text}">{said:.2f}</text>
"""


def saved(picture: bytes) -> str:
    """Write a picture where Sphinx finds it, under a name of its content; give its path from the root."""
    kind = "png" if picture.startswith(PNG) else "svg"
    path = PICTURES / f"{hashlib.sha256(picture).hexdigest()[:16]}.{kind}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    return "/" + path.relative_to(ROOT).as_posix()


def part_shown(picture: bytes) -> str:
    """Name the part of a picture that a card shows: of many rows or columns of exams the first, else all of it."""
    if not picture.startswith(PNG):
        return ""
    width, height = struct.unpack(">II", picture[16:24])
    if len(picture) < PHOTOGRAPH * width * height:
        return ""
    if height > 0.7 * width:
        return "upper-rows"
    return "first-columns" if height < 0.32 * width else ""


def card(title: str, doc: str, said: str, picture: bytes | None) -> str:
    """Write a card that leads to a page."""
    lines = [f":::{{grid-item-card}} {title}", f":link: {doc}", ":link-type: doc"]
    if picture:
        lines += [f":img-top: {saved(picture)}", f":img-alt: a picture of {doc.rpartition('/')[2]}"]
    if picture and part_shown(picture):
        lines.append(f":class-img-top: {part_shown(picture)}")
    return "\n".join([*lines, "", said, ":::"])


def card_of(front: Front, said: str, otherwise: bytes | None = None) -> str:
    """Write a card that leads to a notebook; `otherwise` is the picture where it has none."""
    return card(front.title, front.doc, said, front.picture or otherwise)


def hidden_list(docs: list[str]) -> str:
    """Write a list of pages for the side bar."""
    return "\n".join(["```{toctree}", ":hidden:", "", *docs, "```", ""])


def gallery(folder: str, _: str = "") -> str:
    """Show a folder's notebooks as cards; nothing where it has none."""
    fronts = [front_of(path) for path in notebooks_of(folder)]
    if not fronts:
        return ""
    cards = "\n\n".join(card_of(front, front.claim) for front in fronts)
    return GRID.format(columns=3, cards=cards) + "\n" + hidden_list([front.doc for front in fronts])


def named_lines(body: str) -> list[tuple[str, str]]:
    """Part `name: text` lines; a line without a name goes on with the one before."""
    found: list[tuple[str, str]] = []
    for line in body.strip().splitlines():
        name, colon, text = line.partition(": ")
        if colon and re.fullmatch(r"\w+", name):
            found.append((name, text))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def dots(record: str, keys: list[str]) -> bytes | None:
    """Draw figures of a record, each `KEY` or `KEY = label`, as dots with their intervals, one below the other."""
    rows = []
    for told in keys:
        key, _, label = told.partition(" = ")
        figure = figures_of(record)[key]
        value = figure["value"] if isinstance(figure, dict) else figure
        low, high = (figure["low"], figure["high"]) if isinstance(figure, dict) else (value, value)
        rows.append((label or key, low, value, high))
    if not rows:
        return None
    least, most = min(row[1] for row in rows), max(row[3] for row in rows)
    scale = (PLOT_RIGHT - PLOT_LEFT) / ((most - least) or 1)
    marks = []
    for at, (label, *place) in enumerate(rows):
        low, x, high = (PLOT_LEFT + scale * (number - least) for number in place)
        y = 30 + 40 * at
        marks.append(MARK.format(y=y, text=y + 5, label=label, low=low, x=x, high=high, said=place[1]))
    return PLOT.format(height=20 + 40 * len(rows), marks="".join(marks)).encode()


def records(_: str, body: str) -> str:
    """Show records as cards, each with its finding: `RECORD: what was found`.

    A record without a picture has its figures drawn: `RECORD: what was found || KEY = label || KEY = label`.
    """
    cards = []
    for name, text in named_lines(body):
        said, *keys = text.split(" || ")
        cards.append(card_of(front_of(NBS / "records" / f"{name}.ipynb"), said, dots(name, keys)))
    return GRID.format(columns=2, cards="\n\n".join(cards))


def record_pages(_: str = "", __: str = "") -> str:
    """List all records for the side bar, in the order of the questions.

    Raises:
        LookupError: a record stands under no question.
    """
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    told = list(dict.fromkeys(re.findall(r"^(\w+): ", page, re.MULTILINE)))
    untold = {path.stem for path in notebooks_of("records")} - set(told)
    if untold:
        raise LookupError(f"found no finding of {', '.join(sorted(untold))}, expected one each in docs/records.md")
    return hidden_list([f"/nbs/records/{name}" for name in told])


def pages(folder: str, body: str) -> str:
    """Show a folder's pages as cards: `PAGE: NOTEBOOK | what it is of`, with the notebook's picture."""
    cards, docs = [], []
    for name, text in named_lines(body):
        notebook, _, said = text.partition(" | ")
        doc = f"/{folder}/{name}"
        title = (ROOT / f"{folder}/{name}.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        cards.append(card(title, doc, said, front_of(NBS / f"{notebook}.ipynb").picture))
        docs.append(doc)
    return GRID.format(columns=3, cards="\n\n".join(cards)) + "\n" + hidden_list(docs)
