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
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=True)
        taken, *heavy = done.stdout.split()
        assert not heavy
        seconds.append(float(taken))
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", face.__all__)
def test_every_name_is_what_its_module_holds(name):
    found = getattr(face, name)
    assert callable(found) and found.__name__ == name
    assert getattr(face, name) is found


def test_what_is_offered_is_shown():
    assert {*PROMISED, *FOR_NOTEBOOKS} <= {*face.__all__}
    assert {*face.__all__, "__version__"} <= {*dir(face)}
    with pytest.raises(AttributeError, match="has no attribute 'fids'"):
        _ = face.fids


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return face.load_generator(write_generator(tmp_path_factory.mktemp("generator")) / "model", "cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_exam_saves_what_the_command_writes(generator, tmp_path):
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    model = Path(generator.encoder.folder).parent / "model"
    command = ["generate", "--run", model, "--report", tmp_path / "report.txt", "--seed", 7, "--device", "cpu"]
    assert ccella(*command, "--out", tmp_path / "command").code == 0
    exam = generator.from_report(REPORT, seed=7)
    files = exam.save(tmp_path / "saved")
    assert contents(tmp_path / "saved") == contents(tmp_path / "command")
    assert list(files) == ["axt2", "highb", "adc"] and all(path.is_file() for path in files.values())
    assert ccella(*command, "--out", tmp_path / "saved").code == 0
    assert contents(tmp_path / "saved") == contents(tmp_path / "command")


def test_the_shipped_generator_saves_what_the_command_writes(tmp_path):
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    command = ["generate", "--report", tmp_path / "report.txt", "--seed", 7, "--device", "cpu"]
    assert ccella(*command, "--out", tmp_path / "command").code == 0
    face.load_generator(device="cpu").from_report(tmp_path / "report.txt", seed=7).save(tmp_path / "saved")
    assert contents(tmp_path / "saved") == contents(tmp_path / "command")


def test_settings_and_spacing_are_those_of_the_command(generator, tmp_path):
    (tmp_path / "mine.txt").write_text(REPORT, encoding="utf-8")
    model = Path(generator.encoder.folder).parent / "model"
    command = ["generate", "--run", model, "--report", tmp_path / "mine.txt", "--per-report", 2, "--device", "cpu"]
    ended = ccella(*command, "--spacing", 2, 2, 6, "--steps", 2, "--guidance", 3, "--out", tmp_path / "command")
    assert ended.code == 0
    for replicate in (0, 1):
        exam = generator.from_report(
            tmp_path / "mine.txt", replicate=replicate, spacing_mm=(2, 2, 6), steps=2, guidance=3.0
        )
        assert exam.spacing_mm == (2, 2, 6)
        exam.save(tmp_path / "saved")
    assert contents(tmp_path / "saved") == contents(tmp_path / "command")


def test_an_exam_shows_itself_and_never_its_report(generator, tmp_path):
    exam = generator.from_report(REPORT, seed=7)
    assert exam._repr_png_().startswith(b"\x89PNG")
    assert exam.report == REPORT.strip()
    assert exam.exam_id in repr(exam) and "seed 7" in repr(exam)
    exam.save(tmp_path / "saved")
    with pytest.raises(face.CcellaError, match="another report") as refused:
        generator.from_report(REPORT.replace("Left", "Right"), seed=7).save(tmp_path / "saved")
    for said in (repr(exam), repr(exam.request), repr(generator), str(refused.value)):
        assert MARKER not in said


@pytest.mark.parametrize(
    ("report", "change", "words"),
    [
        ("", {}, "an empty text"),
        (None, {}, "found a NoneType, expected a text"),
        (REPORT, {"scheduler": "ddim"}, "choose one of flow_euler"),
        (REPORT, {"steps": 0}, "sampling: steps"),
        (Path("nowhere.txt"), {}, "no such file"),
    ],
)
def test_what_cannot_be_made_is_refused(generator, report, change, words):
    with pytest.raises(face.CcellaError, match=words) as refused:
        generator.from_report(report, **change)
    assert MARKER not in str(refused.value)
