"""Sphinx reads the repository itself: notebooks, records and data cards as they lie, with their saved outputs."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(ROOT / "settings.ini", encoding="utf-8")
ini = ini["DEFAULT"]

project, author, copyright = ini["lib_name"], ini["author"], ini["copyright"]
extensions = ["myst_nb", "sphinx-mathjax-offline", "sphinx_copybutton", "sphinx_design"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/howto/*.md", "nbs/**/*.ipynb", "data_cards/*.md"]
exclude_patterns = [".*", "_docs", "runs", "build", "dist", "tests", "ccella", "**/.ipynb_checkpoints", "**/_*"]
html_theme = "furo"
html_title = project
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

nb_custom_formats = {".ipynb": ["nbdirectives.read", {"package": ini["lib_name"]}]}
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

FRONT = """<!doctype html><meta charset="utf-8"><title>ccella</title>
<meta http-equiv="refresh" content="0; url=docs/index.html">
"""
LISTING = re.compile(r"```{toctree}\n.*?:glob:\n\n(?P<glob>\S+)\n```\n", re.DOTALL)


def front_door(app, failed):
    """Let _docs/html/index.html lead to the first page."""
    if not failed and app.builder.format == "html":
        Path(app.outdir, "index.html").write_text(FRONT, encoding="utf-8")


def keep_filled(listing):
    """Give a list of pages as it stands, or nothing where its folder is empty: a warning would end the build."""
    pages = any((ROOT / "docs").glob(listing["glob"] + ".*"))
    return listing[0] if pages else ""


def leave_out_empty(app, page, source):
    """Drop the lists of pages that have no page yet from the first page."""
    if page == root_doc:
        source[0] = LISTING.sub(keep_filled, source[0])


def setup(app):
    """Connect the two steps above to Sphinx."""
    app.connect("source-read", leave_out_empty)
    app.connect("build-finished", front_door)
