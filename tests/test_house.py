"""Rules of the house that no notebook can see: floors, names, plain code, and that what is imported is installed."""

import ast
import configparser
import importlib
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "ccella"
NBS = ROOT / "nbs"
INI = configparser.ConfigParser(delimiters=["="], interpolation=None)
INI.read(ROOT / "settings.ini", encoding="utf-8")
PACKAGES = packages_distributions()
EDITED = re.compile(r"File to edit: (?:\.\./)+nbs/(?P<notebook>\d_\S+)\.ipynb")
MODULES = [p for p in sorted(LIB.rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")]

MOST_NODES = 200  # syntax nodes of a function
MOST_LINES = 40  # lines of code of an exported cell, without docstrings, comments and blank lines
MEDIAN_LINES = 15
LONG_FUNCTIONS: dict[str, int] = {}  # module:function → nodes; may only shrink
LONG_CELLS: dict[str, int] = {}  # notebook → cells over MOST_LINES; may only shrink

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def dotted(path: Path) -> str:
    """Name a module below ccella, such as `exams.cohort`."""
    return ".".join(path.relative_to(LIB).with_suffix("").parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def notebook_of(path: Path) -> str | None:
    """The notebook that exports a module, as `FLOOR/NN_name`."""
    found = EDITED.search(path.read_text(encoding="utf-8"))
    return found and found["notebook"]


TOLD = {dotted(path): notebook_of(path) for path in MODULES}


def path_of(module: str) -> Path:
    return LIB / (module.replace(".", "/") + ".py")


def room(module: str) -> int:
    """The number of a module's notebook: the tens are its floor."""
    return int(TOLD[module].rpartition("/")[2].partition("_")[0])


def distribution(name: str) -> str:
    """A distribution's name as pip compares it, without its version."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[]", name)[0]).lower()


def import_from(node: ast.ImportFrom, path: Path) -> set[str]:
    """Full names that `from … import …` brings into the module at `path`."""
    assert node.names[0].name != "*", f"{path.name}: from {node.module} import *"
    here = ["ccella", *path.relative_to(LIB).parts[:-1]]
    above = here[: len(here) - node.level + 1] if node.level else []
    module = ".".join(above + ([node.module] if node.module else []))
    names = set()
    for alias in node.names:
        full = f"{module}.{alias.name}"
        names.add(full if full.removeprefix("ccella.") in TOLD else module)
    return names


def imports(path: Path) -> set[str]:
    """Full names of all that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= import_from(node, path)
    return names


def own_imports(module: str) -> set[str]:
    """The modules of ccella that a module imports."""
    return {name.removeprefix("ccella.") for name in imports(path_of(module)) if name.startswith("ccella.")}


def test_every_module_comes_from_a_notebook():
    """The import rule below looks at every module on disk, in sub-packages too."""
    assert len(TOLD) == len(MODULES) >= 33
    assert all(TOLD.values()), [module for module, notebook in TOLD.items() if notebook is None]


@pytest.mark.parametrize("module", TOLD)
def test_a_room_knows_only_rooms_with_a_smaller_number(module):
    mine = own_imports(module)
    assert mine <= TOLD.keys(), f"{module} imports {', '.join(sorted(mine - TOLD.keys()))}, of no notebook"
    later = {name for name in mine if room(name) >= room(module)}
    assert not later, f"{module} imports {', '.join(sorted(later))}, told after it"


@pytest.mark.parametrize("module", TOLD)
def test_a_module_stands_on_its_floor(module):
    """The folder's digit is the floor, and so is the first digit of the room."""
    notebook = TOLD[module]
    assert notebook[0] == notebook.rpartition("/")[2][0], notebook


@pytest.mark.parametrize("module", [m for m in TOLD if m.startswith("organs.")])
def test_organs_do_not_know_each_other(module):
    organ = module.split(".")[1]
    known = {name.split(".")[1] for name in own_imports(module) if name.startswith("organs.")}
    assert known <= {organ}


@pytest.mark.parametrize("module", TOLD)
def test_what_a_module_imports_is_required(module):
    """An extra's package is imported where it is used, so it counts too."""
    requirements = INI["DEFAULT"]["requirements"].split() + INI["DEFAULT"]["taps_requirements"].split()
    required = {distribution(name) for name in requirements}
    outside = {name.split(".")[0] for name in imports(path_of(module))} - sys.stdlib_module_names - {"ccella"}
    for name in sorted(outside):
        distributions = {distribution(d) for d in PACKAGES.get(name, [])}
        assert distributions & required, f"{module} imports {name}: add it to requirements in settings.ini"


def public_names(path: Path) -> list[str]:
    """What a module's `__all__` lists."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_a_public_name_stands_in_one_module():
    where = defaultdict(list)
    for path in MODULES:
        for name in public_names(path):
            where[name].append(dotted(path))
    twice = {name: modules for name, modules in where.items() if len(modules) > 1}
    assert not twice


def nodes_of(tree: ast.AST) -> int:
    """Expressions and statements of a syntax tree."""
    return sum(isinstance(node, (ast.expr, ast.stmt)) for node in ast.walk(tree))


def test_functions_have_one_idea():
    long = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, FUNCTION) and nodes_of(node) > MOST_NODES:
                long[f"{dotted(path)}:{node.name}"] = nodes_of(node)
    grown = {name: nodes for name, nodes in long.items() if nodes > LONG_FUNCTIONS.get(name, 0)}
    assert not grown, "part these functions"
    assert long.keys() == LONG_FUNCTIONS.keys(), "take functions that are short now off the list"


def depth(node: ast.AST) -> int:
    """How many comprehensions lie inside one another."""
    inside = max((depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return inside + isinstance(node, COMPREHENSION)


def test_no_comprehension_inside_a_comprehension():
    """Among a hundred functions one may."""
    functions, nested = 0, []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, FUNCTION):
                functions += 1
                nested += [f"{dotted(path)}:{node.name}"] if depth(node) > 1 else []
    assert len(nested) <= 0.01 * functions, nested


def docstring_lines(tree: ast.AST) -> set[int]:
    """The lines of a cell that are docstrings."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTION, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def code_lines(source: str) -> int:
    """Lines of code of a cell, without docstrings, comments and blank lines."""
    said = docstring_lines(ast.parse(source))
    counted = 0
    for number, line in enumerate(source.splitlines(), 1):
        is_code = line.strip() and not line.lstrip().startswith("#")
        counted += bool(is_code and number not in said)
    return counted


def is_exported_code(cell) -> bool:
    """Say whether a cell exports more than imports."""
    if cell.cell_type != "code" or not re.match(r"#\s*\|\s*export", cell.source):
        return False
    body = ast.parse(cell.source).body
    return any(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


LIBRARY = sorted(NBS.glob("[0-9]_*/**/[0-9]*.ipynb"))


def name_of(notebook: Path) -> str:
    return notebook.relative_to(NBS).with_suffix("").as_posix()


@cache
def cells_of(notebook: Path) -> list:
    return nbformat.read(notebook, 4).cells


def test_exported_cells_are_short():
    lengths, long = [], {}
    for notebook in LIBRARY:
        found = [code_lines(cell.source) for cell in cells_of(notebook) if is_exported_code(cell)]
        over = sum(n > MOST_LINES for n in found)
        lengths += found
        long |= {name_of(notebook): over} if over else {}
    assert statistics.median(lengths) <= MEDIAN_LINES
    grown = {name: n for name, n in long.items() if n > LONG_CELLS.get(name, 0)}
    assert not grown, f"cells of more than {MOST_LINES} lines"
    assert long == LONG_CELLS, "take what is short now off the list"


def test_ruff_is_content():
    """Lines of at most 120 columns, docstrings, imports in order, one statement a line."""
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT], text=True, capture_output=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_exemptions_from_ruff_are_few():
    """At most a dozen lines may say `noqa`."""
    sources = ["".join(cell.source) for notebook in LIBRARY for cell in cells_of(notebook)]
    for folder in ("tests", "docs", "tools"):
        sources += [path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.py")]
    mark = "# no" + "qa"
    assert sum(source.count(mark) for source in sources) <= 12


@pytest.mark.parametrize("notebook", LIBRARY, ids=name_of)
def test_a_page_shows_what_it_tells(notebook):
    """Every library notebook has a title that says something, and at least one saved picture or table."""
    cells = cells_of(notebook)
    title = next(re.match(r"# (.+)", cell.source)[1] for cell in cells if cell.cell_type == "markdown")
    assert len(title.split()) > 1 and title[0].isupper(), title
    kinds = set()
    for cell in cells:
        for output in cell.get("outputs", []):
            kinds |= set(output.get("data", {}))
    assert kinds & {"image/png", "text/html"}, "no picture and no table"


@pytest.mark.parametrize("notebook", sorted((NBS / "experiments").glob("[!._]*.ipynb")), ids=lambda p: p.stem)
def test_a_stage_takes_parameters_and_exports_nothing(notebook):
    cells = cells_of(notebook)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert not any(cell.source.lstrip().startswith("#| export") for cell in cells)


TUTORIALS = sorted((NBS / "tutorials").glob("[!._]*.ipynb"))
MOST_KB = 400  # of a tutorial with its pictures


def test_tutorials_are_counted_from_one():
    assert [path.name[:3] for path in TUTORIALS] == [f"0{number}_" for number in range(1, 9)]


@pytest.mark.parametrize("notebook", TUTORIALS, ids=name_of)
def test_a_tutorial_says_what_to_try_next(notebook):
    """It begins with a claim, ends with something to do, and its links lead somewhere; it defines no module."""
    cells = cells_of(notebook)
    assert re.match(r"# \S.*\n\n> \S", cells[0].source)
    assert cells[-1].cell_type == "markdown"
    assert "## What to try next\n\n- " in cells[-1].source
    assert not any(cell.source.lstrip().startswith("#| export") for cell in cells)
    for cell in cells:
        links = re.findall(r"\]\(([^)#]+)", cell.source) if cell.cell_type == "markdown" else []
        broken = [link for link in links if "://" not in link and not (notebook.parent / link).is_file()]
        assert not broken


@pytest.mark.parametrize("notebook", TUTORIALS, ids=name_of)
def test_a_tutorial_is_saved_as_it_ran(notebook):
    """Every page has pictures and tables, few enough to load at once, and no path of a machine."""
    cells = cells_of(notebook)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds or "text/html" in kinds
    assert notebook.stat().st_size < 1000 * MOST_KB
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [text for text in texts if "/tmp/" in text]


EVERY_NOTEBOOK = [path for path in sorted(NBS.rglob("*.ipynb")) if not path.name.startswith(("_", "."))]


@pytest.mark.parametrize("notebook", EVERY_NOTEBOOK, ids=name_of)
def test_saved_outputs_hold_no_errors_and_no_warnings_of_a_machine(notebook):
    outputs = [output for cell in cells_of(notebook) for output in cell.get("outputs", [])]
    assert not [output.text[:200] for output in outputs if output.get("name") == "stderr"]
    assert not [output.evalue[:200] for output in outputs if output.output_type == "error"]


def test_lock_pins_every_requirement_and_names_no_host():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {distribution(line) for line in text.splitlines() if "==" in line}
    wanted = INI["DEFAULT"]["requirements"].split() + INI["DEFAULT"]["dev_requirements"].split()
    assert not {distribution(name) for name in wanted} - pinned
    assert "torch==2.13.0\n" in text
    assert not re.search(r"://|--(extra-)?index|--find-links|^(nvidia|cuda|triton)", text, re.MULTILINE)


def test_shapes_are_checked_where_they_are_named():
    """What tests/shapes.py adds to the package while the notebooks run: one axis, one size; unions and None allowed."""
    from collections.abc import Sequence

    import torch
    from jaxtyping import Float, Int, jaxtyped
    from shapes import check

    Row = Float[torch.Tensor, " d"] | Int[torch.Tensor, " d"]

    @jaxtyped(typechecker=None)
    @check
    def add(
        x: Float[torch.Tensor, "b d"], w: Row | None, rows: Sequence[Float[torch.Tensor, " n"]] = ()
    ) -> Float[torch.Tensor, "b d"]:
        return x if w is None or w.ndim > 1 else x + w

    x = torch.zeros(2, 3)
    for w in (torch.zeros(3), torch.zeros(3, dtype=torch.int64), None):
        add(x, w, rows=[torch.zeros(1), torch.zeros(2)])
    for wrong in (torch.zeros(4), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool), 0.0):
        with pytest.raises(TypeError, match=r"w is .*expected"):
            add(x, wrong)


def test_only_functions_of_arrays_are_wrapped():
    """A function that speaks of no array costs nothing more; one axis of the others is one size within a call."""
    from dataclasses import dataclass

    import torch
    from jaxtyping import Float
    from shapes import check, sparing_wrapper

    decorate = sparing_wrapper(typechecker=check)

    @decorate
    def product(x: Float[torch.Tensor, "b d"], y: Float[torch.Tensor, "d c"]) -> Float[torch.Tensor, "b c"]:
        return x @ y

    @decorate
    @dataclass
    class Pair:
        first: Float[torch.Tensor, " n"]
        second: Float[torch.Tensor, " n"]

    @decorate
    @dataclass
    class Name:
        words: list[str]

    assert product(torch.zeros(2, 3), torch.zeros(3, 4)).shape == (2, 4)
    with pytest.raises(TypeError, match="'y'"):
        product(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(TypeError, match="'second'"):
        Pair(torch.zeros(2), torch.zeros(3))
    assert Name.__init__.__code__.co_filename == "<string>", "as the dataclass wrote it"
    assert decorate(lambda: 0).__name__ == "<lambda>" and not hasattr(decorate(lambda: 0), "__wrapped__")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_modules_can_be_imported(path):
    """A notebook may import in a hidden cell what its exported cells need; the module then lacks it."""
    importlib.import_module("ccella." + dotted(path))
