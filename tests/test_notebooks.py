"""Run every library notebook and tutorial from its first cell to its last, as nbdev does, each in a process of its own.

Never nbs/records (hours of training, kept as they ran) nor nbs/experiments (stages, run by the engine).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(NBS.glob("[0-9]_*/**/[0-9]*.ipynb")) + sorted((NBS / "tutorials").glob("[!._]*.ipynb"))
LIMIT_S = 300
RUN = """
import sys
import shapes
import torch
from nbdev.test import test_nb
torch.set_num_threads(1)
shapes.install()
passed, _ = test_nb(sys.argv[1], basepath=sys.argv[2])
sys.exit(not passed)
"""


@pytest.mark.notebook
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.relative_to(NBS).with_suffix("").as_posix())
def test_notebook(notebook, tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path), "IN_TEST": "1", "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, notebook, ROOT],
        cwd=notebook.parent,
        env=env,
        timeout=LIMIT_S,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 0, f"{notebook.name}: a cell failed\n{(done.stdout + done.stderr)[-6000:]}"


def test_every_notebook_is_numbered():
    """The number says what a module may lean on (tests/test_house.py holds it to that)."""
    assert (
        NOTEBOOKS
        and all(p.name[:2].isdigit() for p in NBS.glob("[0-9]_*/**/*.ipynb"))
        and not list(NBS.glob("*.ipynb"))
    )


def test_library_is_what_the_notebooks_export():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_export.py"], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
