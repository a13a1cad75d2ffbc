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
TOLD = {p.stem: int(m[1]) for p in sorted((ROOT / "ccella").glob("*.py")) if (m := re.search(r"File to edit: \.\./nbs/(\d+)_", p.read_text(encoding="utf-8")))}
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
            module = ".".join(["ccella"] * node.level + [node.module] * bool(node.module))
            names |= {f"ccella.{alias.name}" for alias in node.names} if module == "ccella" else {module}
    return names


@pytest.mark.parametrize("module", TOLD)
def test_a_module_knows_only_what_was_told_before_it(module):
    mine = {name.split(".")[1] for name in imports(ROOT / "ccella" / f"{module}.py") if name.startswith("ccella.")}
    later = {name for name in mine - {"__version__"} if TOLD.get(name, 99) > TOLD[module]}
    assert not later, f"{module} imports {', '.join(sorted(later))}, told after it"


@pytest.mark.parametrize("module", TOLD)
def test_what_a_module_imports_is_required(module):
    required = {plain(re.split(r"[<>=!~\[]", r)[0]) for key in ("requirements", "taps_requirements") for r in INI["DEFAULT"][key].split()}    # an extra's package is imported where it is used
    for name in sorted({name.split(".")[0] for name in imports(ROOT / "ccella" / f"{module}.py")} - sys.stdlib_module_names - {"ccella"}):
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
    lengths = {p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "ccella").glob("*.py") if p.name != "_modidx.py"}
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
