"""What the pages leave open is filled in as they are read: a fence `{fill} KIND ARGUMENT`, and figures of records."""

import re

import site_galleries
import site_reference
import site_story
from site_figures import with_figures
from sphinx.errors import ExtensionError

FENCE = re.compile(r"^```\{fill\} (?P<kind>\w+) ?(?P<argument>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {
    "gallery": site_galleries.gallery,
    "records": site_galleries.records,
    "record_pages": site_galleries.record_pages,
    "pages": site_galleries.pages,
    "flow": site_story.flow,
    "stages": site_story.stages,
    "face": site_reference.face,
    "modules": site_reference.modules,
    "commands": site_reference.commands,
    "recipes": site_reference.recipes,
    "recipe_keys": site_reference.recipe_keys,
}


def filled(text: str) -> str:
    """Fill in a page.

    Raises:
        LookupError: a fence, a figure, a record or a module that is not there.
    """

    def fill(found: re.Match) -> str:
        if found["kind"] not in KINDS:
            raise LookupError(f"fill: found '{found['kind']}', expected one of {', '.join(KINDS)}")
        return KINDS[found["kind"]](found["argument"].strip(), found["body"])

    return with_figures(FENCE.sub(fill, text))


def fill_page(app, page: str, source: list[str]) -> None:
    """Fill in a page of markdown as Sphinx reads it; what it is filled with may change while the page does not."""
    if not page.startswith("docs/"):
        return
    try:
        found = filled(source[0])
    except LookupError as error:
        raise ExtensionError(f"{page}: {error.args[0]}") from error
    if found != source[0]:
        app.env.note_reread()
        source[0] = found
