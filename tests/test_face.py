"""`import ccella`: at once, with all that a notebook needs, and the same exam as the command line makes."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import MARKER, REPORT, ccella, write_generator

import ccella as face

ROOT = Path(__file__).resolve().parents[1]
PROMISED = ("from_released", "Conditioning", "joint_loss", "fid", "kid", "precision_recall", "Cohort", "load_recipe")
FOR_NOTEBOOKS = ("load_generator", "montage", "write_phantoms", "phantom_exam", "CcellaError")
TIMED = """
import sys, time
start = time.perf_counter()
import ccella
print(time.perf_counter() - start, *(name for name in ("torch", "pandas", "numpy") if name in sys.modules))
"""


def test_the_import_is_quick_and_brings_nothing_heavy():
    """The best of five, so that a busy machine does not fail it."""
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=True)
        taken, *heavy = done.stdout.split()
        assert not heavy
        seconds.append(float(taken))
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", face.__all__)
def test_every_name_is_what_its_module_holds(name):
    """A name is found, under its own name, and is the same thing each time."""
    found = getattr(face, name)
    assert callable(found)
    assert found.__name__ == name
    assert getattr(face, name) is found


def test_what_is_offered_is_shown():
    """All that is promised is offered, and all that is offered is listed by `dir`."""
    offered, listed = set(face.__all__), set(dir(face))
    assert offered.issuperset(PROMISED)
    assert offered.issuperset(FOR_NOTEBOOKS)
    assert listed.issuperset(offered)
    assert "__version__" in listed
    with pytest.raises(AttributeError, match="has no attribute 'fids'"):
        _ = face.fids


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model that was never trained."""
    return write_generator(tmp_path_factory.mktemp("generator")) / "model"


@pytest.fixture(scope="module")
def generator(model):
    return face.load_generator(model, "cpu")


@pytest.fixture()
def report(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(REPORT, encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_exam_saves_what_the_command_writes(generator, model, report, tmp_path):
    """The same seed gives the same bytes; and the command takes a saved exam for its own, and leaves it so."""
    command, saved = tmp_path / "command", tmp_path / "saved"
    request = {"run": model, "report": report, "seed": 7, "device": "cpu"}
    assert ccella("generate", **request, out=command).code == 0
    files = generator.from_report(REPORT, seed=7).save(saved)
    assert contents(saved) == contents(command)
    assert list(files) == ["axt2", "highb", "adc"]
    for path in files.values():
        assert path.is_file()
    assert ccella("generate", **request, out=saved).code == 0
    assert contents(saved) == contents(command)


def test_the_shipped_generator_saves_what_the_command_writes(report, tmp_path):
    """Where no run is named, both take the shipped weights."""
    command, saved = tmp_path / "command", tmp_path / "saved"
    assert ccella("generate", report=report, seed=7, steps=2, device="cpu", out=command).code == 0
    face.load_generator(device="cpu").from_report(report, seed=7, steps=2).save(saved)
    assert contents(saved) == contents(command)


def test_settings_and_spacing_are_those_of_the_command(generator, model, report, tmp_path):
    """Two replicates on a spacing of one's own, saved one by one, are the command's two."""
    command, saved = tmp_path / "command", tmp_path / "saved"
    settings = {"steps": 2, "guidance": 3.0}
    request = {"run": model, "report": report, "per_report": 2, "device": "cpu"}
    ended = ccella("generate", **request, **settings, spacing=(2, 2, 6), out=command)
    assert ended.code == 0, ended
    for replicate in (0, 1):
        exam = generator.from_report(report, replicate=replicate, spacing_mm=(2, 2, 6), **settings)
        assert exam.spacing_mm == (2, 2, 6)
        exam.save(saved)
    assert contents(saved) == contents(command)


def test_an_exam_shows_itself_and_never_its_report(generator, tmp_path):
    """A notebook shows the picture; no representation and no error holds a word of the report."""
    exam = generator.from_report(REPORT, seed=7)
    assert exam._repr_png_().startswith(b"\x89PNG")
    assert exam.report == REPORT.strip()
    assert exam.exam_id in repr(exam)
    assert "seed 7" in repr(exam)
    exam.save(tmp_path / "saved")
    other = generator.from_report(REPORT.replace("Left", "Right"), seed=7)
    with pytest.raises(face.CcellaError, match="another report") as refused:
        other.save(tmp_path / "saved")
    for said in (repr(exam), repr(exam.request), repr(generator), str(refused.value)):
        assert MARKER not in said


@pytest.mark.parametrize(
    ("source", "change", "words"),
    [
        ("", {}, "an empty text"),
        (None, {}, "found a NoneType, expected a text"),
        (REPORT, {"scheduler": "ddim"}, "choose one of flow_euler"),
        (REPORT, {"steps": 0}, "sampling: steps"),
        (Path("nowhere.txt"), {}, "no such file"),
    ],
)
def test_what_cannot_be_made_is_refused(generator, source, change, words):
    with pytest.raises(face.CcellaError, match=words) as refused:
        generator.from_report(source, **change)
    assert MARKER not in str(refused.value)
