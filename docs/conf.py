"""Sphinx reads the repository itself: notebooks, records and data cards as they lie, with their saved outputs."""

import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT)]
fill_page = import_module("site_pages").fill_page

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(ROOT / "settings.ini", encoding="utf-8")
ini = ini["DEFAULT"]

project, author, copyright = ini["lib_name"], ini["author"], ini["copyright"]
extensions = ["myst_nb", "sphinx-mathjax-offline", "sphinx_copybutton", "sphinx_design"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/**/*.md", "nbs/**/*.ipynb", "data_cards/*.md", "C[HO]*.md"]
_left_out = [".*", "_docs", "runs", "build", "dist", "tests", "ccella", "**/.ipynb_checkpoints", "**/_*"]
exclude_patterns = [*_left_out, "nbs/explorer.ipynb"]  # a page would show none of its widgets
nb_render_markdown_format = "myst"  # what a cell shows as Markdown may hold tables
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/favicon.svg"
html_copy_source = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

nb_custom_formats = {".ipynb": ["nbdirectives.read", {"package": ini["lib_name"]}]}
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "fieldlist", "attrs_inline"]
myst_dmath_double_inline = True  # $$…$$ on a line of a paragraph, as JupyterLab has it
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

FRONT = """<!doctype html><meta charset="utf-8"><title>ccella</title>
<link rel="icon" href="_static/favicon.svg"><meta http-equiv="refresh" content="0; url=docs/index.html">
"""
MATHJAX = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions")  # what a page loads, of twelve times as much


def front_door(app, failed):
    """Let _docs/html/index.html lead to the first page."""
    if not failed and app.builder.format == "html":
        Path(app.outdir, "index.html").write_text(FRONT, encoding="utf-8")


def keep_what_pages_load(app, failed):
    """Leave of MathJax the files that a page can ask for."""
    folder = Path(app.outdir, "_static", "mathjax")
    kept = [folder / name for name in MATHJAX]
    for path in [*folder.rglob("*")] if not failed else []:
        if path.is_file() and not any(path == keep or keep in path.parents for keep in kept):
            path.unlink()


def short_navigation(app, page, template, context, doctree):
    """Open in the side bar only where the reader is: the whole tree on every page would be a third of the build."""
    whole = context.get("toctree")
    if whole:
        context["toctree"] = lambda **settings: whole(**(settings | {"collapse": True}))


def setup(app):
    """Connect the steps above to Sphinx."""
    app.connect("source-read", fill_page)
    app.connect("html-page-context", short_navigation, priority=400)
    app.connect("build-finished", front_door)
    app.connect("build-finished", keep_what_pages_load, priority=900)
