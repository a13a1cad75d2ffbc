"""The wheel, installed elsewhere, has all that the command line needs: recipes, weights, engine, stage notebooks."""

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from runs import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ccella"
GENERATOR = PACKAGE / "weights" / "generator"

REPORT = """MRI PROSTATE
CLINICAL INFORMATION: 66 year old man, PSA 7.9 ng/mL, no previous biopsy.
FINDINGS: The prostate measures 4.6 x 3.4 x 4.2 cm. In the left mid peripheral zone there is a 14 mm focus
of low T2 signal with marked restricted diffusion, PI-RADS 5. The capsule is intact. No enlarged lymph nodes.
IMPRESSION: Left mid peripheral zone lesion, PI-RADS 5.
"""


def pip(cwd, *command):
    options = ("--no-index", "--quiet", "--disable-pip-version-check")
    line = [sys.executable, "-m", "pip", *command, *options]
    done = subprocess.run(line, cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, since setuptools writes beside the sources, and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "_docs", "runs", "build", "dist", "*.egg-info", "__pycache__", "records")
    shutil.copytree(ROOT, folder / "source", ignore=skip)
    pip(folder, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder / "source")
    return next((folder / "dist").glob("ccella-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel alone; what it depends on comes from this environment, ccella itself must not."""
    target = tmp_path_factory.mktemp("installed")
    pip(target, "install", "--no-deps", "--target", target, wheel)
    return target


def run(target, cwd, *command):
    env = os.environ | {"PYTHONPATH": str(target), "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, text=True, capture_output=True, timeout=300)


def files_under(folder: Path) -> set[str]:
    """The files of a folder by their paths in the checkout, but for hidden ones and Python's caches."""
    names = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "/." not in name and "__pycache__" not in name}


@pytest.mark.slow
def test_wheel_holds_what_the_package_reads(wheel):
    """Every module, style, recipe, weight, profile and notebook that the package uses is in the wheel, and no more."""
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.glob("*.css")]
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    for kind in ("recipes", "weights", "grid", "organs"):
        expected |= files_under(PACKAGE / kind)
    for notebook in (ROOT / "nbs" / "experiments").glob("[!._]*.ipynb"):
        expected.add(f"ccella/experiments/{notebook.name}")
    expected.add("ccella/explorer.ipynb")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ccella/")}
    assert held == expected


def test_shipped_weights_are_small():
    """A clone and a wheel stay small: weights of another size belong elsewhere."""
    size = sum(path.stat().st_size for path in (PACKAGE / "weights").rglob("*") if path.is_file())
    assert 0 < size < 16e6, f"{size / 1e6:.1f} MB of weights; the limit is 16 MB"


@pytest.mark.slow
def test_metadata(wheel):
    """The wheel tells its licence, its Python, what it needs and its command."""
    with zipfile.ZipFile(wheel) as held:
        about = next(name for name in held.namelist() if name.endswith("METADATA"))
        metadata = held.read(about).decode("utf-8")
        scripts = held.read(about.replace("METADATA", "entry_points.txt")).decode("utf-8")
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "ccella = ccella.cli:main" in scripts


@pytest.mark.slow
def test_command_line_of_the_installed_wheel(installed, tmp_path):
    """What runs is the installed package, not this checkout, and it knows every command."""
    where = run(installed, tmp_path, "-c", "import ccella; print(ccella.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stdout + where.stderr
    shown = run(installed, tmp_path, installed / "bin" / "ccella", "--help")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for command in COMMANDS:
        assert f" {command} " in shown.stdout
    without_records = run(installed, tmp_path, installed / "bin" / "ccella", "rerun", "head")
    assert without_records.returncode == 1
    assert "found no records, expected a checkout" in without_records.stderr
    assert without_records.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_explorer_of_the_installed_wheel(installed, tmp_path):
    """Its notebook is put beside whoever asks; JupyterLab is told to print its version in place of starting."""
    started = run(installed, tmp_path, installed / "bin" / "ccella", "explore", "mine", "--", "--version")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "open mine/explorer.ipynb" in started.stdout
    assert "ccella.explore(generator)" in (tmp_path / "mine" / "explorer.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not GENERATOR.is_dir(), reason="no shipped generator in ccella/weights/generator")
def test_generation_from_the_installed_wheel(installed, tmp_path):
    """A report becomes an exam with the shipped weights alone."""
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    line = "generate --report report.txt --out exam --seed 7 --device cpu"
    made = run(installed, tmp_path, installed / "bin" / "ccella", *line.split())
    assert made.returncode == 0, made.stdout + made.stderr
    assert "PI-RADS 5" not in made.stdout + made.stderr  # report text goes into no log
    with open(tmp_path / "exam" / "cohort.csv", newline="", encoding="utf-8") as table:
        (row,) = csv.DictReader(table)
    assert row["kind"] == "synthetic"
    volumes = [nib.load(tmp_path / "exam" / row[sequence]) for sequence in ("axt2", "highb", "adc")]
    for volume in volumes:
        voxels = np.asanyarray(volume.dataobj)
        assert voxels.ndim == 3
        assert voxels.shape == volumes[0].shape
        assert np.isfinite(voxels).all()
        assert voxels.std() > 0
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
