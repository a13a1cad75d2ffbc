"""Rules of the house that no notebook can see: who may import whom, and that what is imported is installed."""
import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INI = configparser.ConfigParser(delimiters=["="], interpolation=None)
INI.read(ROOT / "settings.ini", encoding="utf-8")
LIB = ROOT / "ccella"
EDITED = re.compile(r"File to edit: (?:\.\./)+nbs/(?P<notebook>\d_\S+)\.ipynb")
TOLD = {".".join(p.relative_to(LIB).with_suffix("").parts): m["notebook"] for p in sorted(LIB.rglob("*.py")) if (m := EDITED.search(p.read_text(encoding="utf-8")))}
room = lambda module: int(TOLD[module].rpartition("/")[2].partition("_")[0])
path_of = lambda module: LIB / (module.replace(".", "/") + ".py")
PACKAGES = packages_distributions()
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()


def imports(path: Path) -> set[str]:
    """Full names of all that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.names[0].name != "*", f"{path.name}: from {node.module} import *"
            here = ["ccella", *path.relative_to(LIB).parts[:-1]]
            module = ".".join(here[:len(here) - node.level + 1] * bool(node.level) + [node.module] * bool(node.module))
            names |= {full if (full := f"{module}.{alias.name}").removeprefix("ccella.") in TOLD else module for alias in node.names}
    return names


@pytest.mark.parametrize("module", TOLD)
def test_a_module_knows_only_what_was_told_before_it(module):
    mine = {name.removeprefix("ccella.") for name in imports(path_of(module)) if name.startswith("ccella.")}
    assert mine <= TOLD.keys(), f"{module} imports {', '.join(sorted(mine - TOLD.keys()))}, of no notebook"
    later = {name for name in mine if room(name) >= room(module)}
    assert not later, f"{module} imports {', '.join(sorted(later))}, told after it"


def test_every_module_is_told_in_a_room_of_its_floor():
    """The folder's digit is the floor, the notebook's first digit too; organs have the same rooms and do not know each other."""
    assert len(TOLD) == len([p for p in LIB.rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")])
    for module, notebook in TOLD.items():
        assert notebook[0] == notebook.rpartition("/")[2][0], notebook
        organ = module.split(".")[1] if module.startswith("organs.") else None
        others = {n.split(".")[2] for n in imports(path_of(module)) if n.startswith("ccella.organs.") and n.count(".") > 2} - {organ}
        assert not (organ and others), f"{module} knows the organs {', '.join(sorted(others))}"


@pytest.mark.parametrize("module", TOLD)
def test_what_a_module_imports_is_required(module):
    required = {plain(re.split(r"[<>=!~\[]", r)[0]) for key in ("requirements", "taps_requirements") for r in INI["DEFAULT"][key].split()}    # an extra's package is imported where it is used
    for name in sorted({name.split(".")[0] for name in imports(path_of(module))} - sys.stdlib_module_names - {"ccella"}):
        assert {plain(d) for d in PACKAGES.get(name, [])} & required, f"{module} imports {name}: add it to requirements in settings.ini"


@pytest.mark.parametrize("notebook", sorted((ROOT / "nbs" / "experiments").glob("[!._]*.ipynb")), ids=lambda p: p.stem)
def test_a_stage_takes_parameters_and_exports_nothing(notebook):
    import nbformat

    cells = nbformat.read(notebook, 4).cells
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1
    assert not any(c.source.lstrip().startswith("#| export") for c in cells)


@pytest.mark.parametrize("notebook", sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(("_", "."))), ids=lambda p: p.stem)
def test_saved_outputs_hold_no_warnings_of_a_machine(notebook):
    import nbformat

    outputs = [o for c in nbformat.read(notebook, 4).cells for o in c.get("outputs", [])]
    assert not [o.text[:200] for o in outputs if o.get("name") == "stderr"]


def test_lock_pins_every_requirement_and_names_no_host():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {plain(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    wanted = INI["DEFAULT"]["requirements"].split() + INI["DEFAULT"]["dev_requirements"].split()
    assert not {plain(re.split(r"[<>=!~\[]", r)[0]) for r in wanted} - pinned
    assert "torch==2.13.0\n" in text
    assert not re.search(r"://|--(extra-)?index|--find-links|^(nvidia|cuda|triton)", text, re.M)


def test_no_file_of_the_library_is_long():
    lengths = {p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in LIB.rglob("*.py") if p.name != "_modidx.py"}
    assert all(n <= 600 for n in lengths.values()), {k: n for k, n in lengths.items() if n > 600}


def test_shapes_are_checked_where_they_are_named():
    """What tests/shapes.py adds to the package while the notebooks run: one axis, one size; unions and None allowed; plain types left alone."""
    from collections.abc import Sequence

    import torch
    from jaxtyping import Float, Int, jaxtyped
    from shapes import check

    @jaxtyped(typechecker=None)
    @check
    def add(x: Float[torch.Tensor, "b d"], w: Float[torch.Tensor, "d"] | Int[torch.Tensor, "d"] | None, rows: Sequence[Float[torch.Tensor, "n"]] = ()) -> Float[torch.Tensor, "b d"]:
        return x if w is None else x + w if w.ndim == 1 else x

    x = torch.zeros(2, 3)
    for w in (torch.zeros(3), torch.zeros(3, dtype=torch.int64), None):
        add(x, w, rows=[torch.zeros(1), torch.zeros(2)])
    for wrong in (torch.zeros(4), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool), 0.0):
        with pytest.raises(TypeError, match="w is .*expected"):
            add(x, wrong)
