"""Importing as users meet it: killed and repeated, in several processes, on a full disk, with names in every header."""

import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from runs import ccella
from typer.testing import CliRunner

from ccella.exams.cohort import Cohort
from ccella.exams.volumes import write_volume

ROOT = Path(__file__).resolve().parents[1]
SEQUENCES = {"t2": 300, "dwi": 30, "adc": 1200}
PATTERN = "{id}/{sequence}.nii.gz"
NAME = "Mustermann"
GROUP = ("folder", "dicom", "picai", "prostate158")


def write_exam(folder: Path, number: int, shape=(20, 18, 8)) -> None:
    """Write the three sequences and the gland of an exam, with noise of its own."""
    rng = np.random.default_rng(number)
    affine = nib.affines.from_matvec(np.diag([-1.5, -1.5, 3.0]), rng.normal(0, 30, 3))
    for name, level in SEQUENCES.items():
        write_volume(folder / f"{name}.nii.gz", rng.gamma(4, level / 4, shape).astype(np.float32), affine)
    gland = np.zeros(shape, np.uint8)
    gland[6:14, 5:13, 2:6] = 1
    write_volume(folder / "gland.nii.gz", gland, affine, "uint8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve exams in folders that are named after patients."""
    root = tmp_path_factory.mktemp("source")
    for number in range(12):
        write_exam(root / "in" / f"{NAME}{number:02d}", number)
    return root / "in"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(source: Path, out: Path, workers: int = 1) -> list[str]:
    words = ["import", "folder", str(source), "--pattern", PATTERN, "--out", str(out), "--workers", str(workers)]
    return [sys.executable, "-c", "from ccella.cli import main; main()", *words]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", GROUP)
def test_help_of_each_way_in(name):
    from ccella.cli import app

    page = CliRunner().invoke(app, ["import", name, "--help"], env={"COLUMNS": "120", "TERMINAL_WIDTH": "120"})
    assert page.exit_code == 0
    assert f"ccella import {name}" in page.output.split("Examples")[1]
    assert "--dry-run" in page.output


def test_same_bytes_with_one_process_or_two(source, tmp_path):
    assert ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "one").code == 0
    assert ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "two", workers=2).code == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(Cohort.read(tmp_path / "one")) == 12


def begun(source: Path, out: Path) -> multiprocessing.Process:
    """Import in a process of its own, which finds imported what it needs."""
    given = {"target": ccella, "args": ("import", "folder", source), "kwargs": {"pattern": PATTERN, "out": out}}
    process = multiprocessing.get_context("fork").Process(**given)
    process.start()
    return process


@pytest.mark.slow
def test_killed_at_random_moments_it_completes_with_the_same_bytes(source, tmp_path):
    """SIGKILL at ten moments of a growing import; then the same command once more."""
    assert ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "whole").code == 0
    began = time.monotonic()
    begun(source, tmp_path / "timed").join()
    takes = time.monotonic() - began
    moments, ends = random.Random(0), []
    for _ in range(10):
        process = begun(source, tmp_path / "killed")
        time.sleep(moments.uniform(0, 0.4) * takes)
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert -signal.SIGKILL in ends
    (tmp_path / ".0123abcd.killed.map.csv").touch()  # the moment that is hit once in hundreds
    ended = ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "killed")
    assert ended.code == 0, ended
    assert content(tmp_path / "killed") == content(tmp_path / "whole") == content(tmp_path / "timed")
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "nothing half-written is left"


def test_no_name_reaches_the_cohort(tmp_path):
    """Names in folders, in NIfTI's description and extensions, in a MetaImage's lines, in the table."""
    folder = tmp_path / "in" / NAME
    write_exam(folder, 1)
    image = nib.load(folder / "adc.nii.gz")
    image.header["descrip"] = NAME.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), folder / "adc.nii.gz")
    table = tmp_path / "labels.csv"
    table.write_text(f"Patient,PI-RADS,Befund\n{NAME},4,No lesion.\n", encoding="utf-8")
    ended = ccella("import", "folder", tmp_path / "in", pattern=PATTERN, table=table, out=tmp_path / "C")
    assert ended.code == 0, ended
    cohort = Cohort.read(tmp_path / "C")
    for name, raw in content(tmp_path / "C").items():
        assert NAME not in name
        assert NAME.encode() not in raw
    for path in (tmp_path / "C").rglob("*.nii.gz"):
        assert NAME.encode() not in nib.load(path).header.binaryblock
        assert not nib.load(path).header.extensions
    assert cohort["P0001-1"].text() == "No lesion."
    assert stat.S_IMODE((tmp_path / "C.map.csv").stat().st_mode) == 0o600
    assert NAME in (tmp_path / "C.map.csv").read_text(encoding="utf-8")


def test_originals_are_not_changed(source, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.rglob("*") if path.is_file()}
    ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "C", crop=True)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}


def test_a_full_disk_is_said_and_leaves_no_half_file(source, tmp_path, monkeypatch):
    import ccella.exams.volumes as volumes

    written = []

    def full(path: Path, raw: bytes) -> None:
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device", str(path))
        original(path, raw)

    original = volumes._write_bytes
    monkeypatch.setattr(volumes, "_write_bytes", full)
    ended = ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "C")
    assert ended.code == 1
    assert "No space left on device" in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "C/cohort.csv").exists()
    monkeypatch.setattr(volumes, "_write_bytes", original)
    assert ccella("import", "folder", source, pattern=PATTERN, out=tmp_path / "C").code == 0
    assert len(Cohort.read(tmp_path / "C")) == 12


@pytest.mark.by_hand
def test_memory_does_not_grow_with_the_number_of_exams(tmp_path):
    """Peak memory of an import of 2,000 small exams is within 20% of that of 200."""
    peaks = {}
    for count in (200, 2000):
        for number in range(count):
            write_exam(tmp_path / f"in{count}" / f"{number:05d}", number, (16, 16, 8))
        words = command(tmp_path / f"in{count}", tmp_path / f"C{count}")
        code = "import resource; from ccella.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        done = subprocess.run([words[0], "-c", code, *words[3:]], env=ENVIRONMENT, capture_output=True, text=True)
        peaks[count] = int(done.stdout.splitlines()[-1])
    print(peaks)
    assert peaks[2000] <= 1.2 * peaks[200]


@pytest.mark.by_hand
def test_two_thousand_exams_are_checked_in_two_minutes(tmp_path):
    """A first look with two processes, and a second that opens nothing."""
    for number in range(2000):
        write_exam(tmp_path / "in" / f"{number:05d}", number, (32, 32, 8))
    began = time.monotonic()
    assert ccella("import", "folder", tmp_path / "in", pattern=PATTERN, out=tmp_path / "C", workers=2).code == 0
    seconds = {"import": time.monotonic() - began}
    for look in ("first", "second"):
        began = time.monotonic()
        assert ccella("check", tmp_path / "C", workers=2).code == 0
        seconds[look] = time.monotonic() - began
    print(seconds)
    assert seconds["first"] < 120
    assert seconds["second"] < 0.2 * seconds["first"]
