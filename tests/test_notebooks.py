"""Run every library notebook and tutorial from its first cell to its last, as nbdev does, each in a process of its own.

Never nbs/records (hours of training, their outputs kept as they ran) nor nbs/experiments (stages, run by the engine).
With `--fast` the cells under `#| slow` (trainings, long simulations, and what needs them) are left out, and tutorials.
Where there is Chromium, tests/test_lab.py runs the tutorials in JupyterLab, and they are not run a second time here.
"""

import ast
import multiprocessing
import os
import subprocess
import sys
import tempfile
import tomllib
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import pytest
from browser import AT_HAND
from papermill import inspect_notebook

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(NBS.glob("[0-9]_*/**/[0-9]*.ipynb"))
TUTORIALS = sorted((NBS / "tutorials").glob("[!._]*.ipynb"))
LIMIT_S = 300
IN_LAB = pytest.mark.skipif(AT_HAND, reason="tests/test_lab.py runs it in JupyterLab")
FLAGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]["tst_flags"].split()


def name_of(notebook: Path) -> str:
    return notebook.relative_to(NBS).with_suffix("").as_posix()


@pytest.fixture(scope="session")
def heavy_libraries():
    """What nearly every notebook imports: loaded once, before the notebooks' processes are forked off."""
    import diffusers
    import monai.networks.nets
    import pandas
    import scipy.stats
    import seaborn
    import sklearn.linear_model
    import transformers

    return diffusers, monai, pandas, scipy, seaborn, sklearn, transformers


def run_cells(notebook: Path, folder: Path, fast: bool) -> bool:
    """Run a notebook's cells in this process; True where all passed."""
    import shapes
    import torch
    from nbdev.test import test_nb

    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.chdir(notebook.parent)
    torch.set_num_threads(1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ccella"]:
        del sys.modules[name]  # imported anew, with their shapes checked
    shapes.install()
    left_out = FLAGS if fast else [flag for flag in FLAGS if flag != "slow"]
    passed, _ = test_nb(notebook, skip_flags=left_out, basepath=ROOT)
    return passed


def run_notebook(notebook: Path, output: Path, folder: Path, fast: bool) -> None:
    """Run a notebook and end this process: with 0 where every cell passed."""
    passed = False
    with open(output, "w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        os.dup2(file.fileno(), 2)  # nbdev tells of errors on the process's own stderr
        try:
            passed = run_cells(notebook, folder, fast)
        except BaseException:
            traceback.print_exc()
    os._exit(not passed)


@pytest.mark.notebook
@pytest.mark.parametrize(
    "notebook", [*NOTEBOOKS, *(pytest.param(path, marks=[pytest.mark.slow, IN_LAB]) for path in TUTORIALS)], ids=name_of
)
def test_notebook(notebook, tmp_path, heavy_libraries, pytestconfig):
    output, fast = tmp_path / "output.txt", pytestconfig.getoption("--fast")
    # deep enough that a socket's path there would be too long
    folder = tmp_path / "scratch" / ("of_a_long_name" * 8)
    folder.mkdir(parents=True)
    process = multiprocessing.get_context("fork").Process(target=run_notebook, args=(notebook, output, folder, fast))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        pytest.fail(f"{notebook.name}: ran longer than {LIMIT_S} s")
    assert process.exitcode == 0, f"{notebook.name}: a cell failed\n{output.read_text(errors='replace')[-6000:]}"


def test_every_notebook_is_numbered():
    """The number says what a module may lean on (tests/test_house.py holds it to that)."""
    assert NOTEBOOKS
    assert [path.name for path in NBS.glob("*.ipynb")] == ["explorer.ipynb"]
    assert all(path.name[:2].isdigit() for path in NBS.glob("[0-9]_*/**/*.ipynb"))


EXPERIMENTS = sorted((NBS / "experiments").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", EXPERIMENTS, ids=name_of)
def test_papermill_finds_every_parameter(notebook):
    """A comment with an equals sign in it hides the parameter before it from `papermill --help-notebook`."""
    (cell,) = (cell for cell in nbformat.read(notebook, 4).cells if "parameters" in cell.metadata.get("tags", ()))
    targets = (getattr(line, "target", None) or line.targets[0] for line in ast.parse(cell.source).body)
    assert list(inspect_notebook(str(notebook))) == [target.id for target in targets]


def test_library_is_what_the_notebooks_export():
    command = [sys.executable, ROOT / "tools" / "check_export.py"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
