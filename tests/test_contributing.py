"""The files about the project: examples of CONTRIBUTING.md run in a copy of the checkout; citation and changelog."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import nbformat
import pytest
import yaml
from test_howto import QUOTED, commands_of, find_command, options_of, prose_of

import ccella
from ccella.studies.records import read_rerun

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?P<before>[^\n]*)\n\n```(?P<language>sh|yaml|python)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)
NOTEBOOK = re.compile(r"In `(?P<path>nbs/\S+\.ipynb)`, as `(?P<module>[\w.]+)`:$")
FILE = re.compile(r"In `(?P<path>ccella/\S+\.yaml)`:$")
MOST_LINES = 21  # of an example: ten of code, imports and blank lines apart
LICENCES = {"Apache-2.0": "apache2"}  # as settings.ini spells it
LEFT = ("records", "tutorials", "runs", "_docs", "__pycache__", ".git", ".venv", ".pytest_cache", ".hypothesis")
EXAMPLES = [(found["before"], found["language"], found["code"]) for found in BLOCK.finditer(GUIDE)]


def write_notebook(path: Path, module: str, code: str) -> None:
    """Write a notebook that exports a cell."""
    sources = [f"#| default_exp {module}", f"#| export\n{code}"]
    cells = [nbformat.v4.new_code_cell(source.rstrip("\n")) for source in sources]
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def run_in(folder: Path, *command: str) -> str:
    """Run a command in a checkout, with its own package, and give what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def test_the_guide_has_an_example_of_each():
    headings = re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)
    assert headings == [
        "How a notebook becomes a module",
        "A recipe",
        "A layout",
        "A measure",
        "An organ",
        "A record",
    ]
    notebooks = [match["path"] for before, *_ in EXAMPLES if (match := NOTEBOOK.search(before))]
    assert [path.split("/")[1] for path in notebooks] == ["1_exams", "5_measures", "2_organs"]
    assert sum(bool(FILE.search(before)) for before, *_ in EXAMPLES) == 1
    assert max(code.count("\n") for *_, code in EXAMPLES) <= MOST_LINES


@pytest.mark.slow
def test_the_examples_run_in_a_checkout(tmp_path):
    """Notebooks, a recipe and an organ are added as the guide says; what it then calls works, and ruff has no word."""
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(*LEFT))
    folder = tmp_path / "copy"
    (folder / ".git").mkdir()  # else ruff does not heed .gitignore
    uses = []
    for before, language, code in EXAMPLES:
        added, file = NOTEBOOK.search(before), FILE.search(before)
        if added:
            write_notebook(folder / added["path"], added["module"], code)
        elif file:
            (folder / file["path"]).write_text(code, encoding="utf-8")
        else:
            uses.append((language, code))
    for language, code in uses:  # the first is what exports the notebooks
        command = ("bash", "-euc", code) if language == "sh" else (sys.executable, "-c", code)
        run_in(folder, *command)
    assert (folder / "as_arrays" / "table.csv").is_file()
    with pytest.raises(AssertionError):
        run_in(folder, sys.executable, "-c", "from ccella.measures.overlaps import overlap")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_are_named_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    made = {found["path"] for before, *_ in EXAMPLES for kind in (NOTEBOOK, FILE) if (found := kind.search(before))}
    named = set(re.findall(r"`((?:nbs|docs|tests|ccella)/[a-z0-9_/.]+)`", text)) - made
    assert not [path for path in named if not (ROOT / path).exists()]
    assert not re.findall(r"\]\((?!https://)([^)]+)\)", text)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_command_is_one_of_the_command_line(name):
    """In blocks and in backticks, with the options that are named."""
    text = (ROOT / name).read_text(encoding="utf-8")
    called = commands_of(text)
    for words in QUOTED.findall(prose_of(text)):
        if words.startswith("ccella "):
            called.append(words.split()[1:])
    assert len(called) >= 1
    for words in called:
        command, _, rest = find_command(words)
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= options_of(command), words


def test_a_command_that_is_none_is_found():
    for words in (["generat"], ["import", "dicomm"]):
        with pytest.raises((AssertionError, click.UsageError)):
            find_command(words)


def test_the_changelog_names_the_records_of_former_parts():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"The records [^.]* are of the parts before\.", text)
    records = (ROOT / "nbs" / "records").glob("[!._]*.ipynb")
    assert set(re.findall(r"`(\w+)`", said)) == {path.stem for path in records if read_rerun(path).former}


def test_the_changelog_tells_of_the_version_that_stands():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert ccella.__version__ in text
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed"}


def test_the_citation_agrees_with_package_and_readme():
    """Its required keys by the schema 1.2.0 of the Citation File Format, and that nothing says otherwise."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"authors", "cff-version", "message", "title"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == ccella.__version__
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    package = settings["DEFAULT"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claim, _, _ = package["description"].partition(":")
    assert cited["title"].lower() == f"{package['title']}: {claim}".lower()
    assert cited["license"] == project["license"]
    assert LICENCES[cited["license"]] == package["license"]
    assert package["title"] == project["name"]
    assert "version" in project["dynamic"]
    readme = re.sub(r"[{}]", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(cited["references"]) == 2
    for paper in cited["references"]:
        assert paper["title"] in readme
        assert paper["url"] in readme
        names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
        assert " and ".join(names) in readme
