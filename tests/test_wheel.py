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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ccella"
GENERATOR = PACKAGE / "weights" / "generator"

REPORT = """MRI PROSTATE
CLINICAL INFORMATION: 66 year old man, PSA 7.9 ng/mL, no previous biopsy.
FINDINGS: The prostate measures 4.6 x 3.4 x 4.2 cm. In the left mid peripheral zone there is a 14 mm focus
of low T2 signal with marked restricted diffusion, PI-RADS 5. The capsule is intact. No enlarged lymph nodes.
IMPRESSION: Left mid peripheral zone lesion, PI-RADS 5.
"""


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


def pip(cwd, *command):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--no-index", "--quiet", "--disable-pip-version-check"],
        cwd=cwd,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(target, cwd, *command):
    env = os.environ | {"PYTHONPATH": str(target), "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, text=True, capture_output=True, timeout=300)


def test_wheel_holds_what_the_package_reads(wheel):
    within = {
        p.relative_to(ROOT).as_posix()
        for kind in ("recipes", "weights", "grid", "organs")
        for p in (PACKAGE / kind).rglob("*")
        if p.is_file()
    }
    within = {p for p in within if "/." not in p and "__pycache__" not in p}
    stages = {f"ccella/experiments/{p.name}" for p in (ROOT / "nbs" / "experiments").glob("[!._]*.ipynb")}
    modules = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ccella/")}
    assert held == within | stages | modules


def test_shipped_weights_are_small():
    size = sum(p.stat().st_size for p in (PACKAGE / "weights").rglob("*") if p.is_file())
    assert size < 16e6, f"{size / 1e6:.1f} MB of weights; the limit is 16 MB"


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as z:
        info = next(n for n in z.namelist() if n.endswith("METADATA"))
        metadata = z.read(info).decode("utf-8")
        scripts = z.read(info.replace("METADATA", "entry_points.txt")).decode("utf-8")
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch" in metadata and "Requires-Python: >=3.11" in metadata
    assert "ccella = ccella.cli:main" in scripts


def test_command_line_of_the_installed_wheel(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import ccella; print(ccella.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stdout + where.stderr
    shown = run(installed, tmp_path, installed / "bin" / "ccella", "--help")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for command in ("phantom", "check", "describe", "encode", "train", "generate", "evaluate", "classify", "run"):
        assert command in shown.stdout


@pytest.mark.skipif(not GENERATOR.is_dir(), reason="no shipped generator in ccella/weights/generator")
def test_generation_from_the_installed_wheel(installed, tmp_path):
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    made = run(
        installed,
        tmp_path,
        installed / "bin" / "ccella",
        "generate",
        "--report",
        "report.txt",
        "--out",
        "exam",
        "--seed",
        "7",
        "--device",
        "cpu",
    )
    assert made.returncode == 0, made.stdout + made.stderr
    with open(tmp_path / "exam" / "cohort.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 1 and rows[0]["kind"] == "synthetic"
    volumes = [nib.load(tmp_path / "exam" / rows[0][sequence]) for sequence in ("axt2", "highb", "adc")]
    for volume in volumes:
        voxels = np.asanyarray(volume.dataobj)
        assert voxels.shape == volumes[0].shape and voxels.ndim == 3
        assert np.isfinite(voxels).all() and voxels.std() > 0
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert "PI-RADS 5" not in made.stdout + made.stderr  # report text goes into no log
