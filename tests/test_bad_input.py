"""Bad input, as people have it: each fault is one line that names exam, file, found and expected.

Nothing is written, nothing lost, and no word of a report is told.
"""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from runs import MARKER, REPORT, ccella, state, write_generator

from ccella.core import CcellaError
from ccella.exams.cohort import Cohort
from ccella.exams.prepare import prepare_exam
from ccella.models.autoencoder import Vae
from ccella.models.latents import encode_cohort
from ccella.models.ldm import LatentDiffusion, check_folder, load_model, save_model
from ccella.recipe import load_recipe

EXAM = "P1-3-00002"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "cohort"
    assert ccella("phantom", folder, "--exams", 4, "--grid", 16, 16, 8, "--seed", 3, "--no-split").code == 0
    for report in folder.rglob("report.txt"):
        report.write_text(f"{MARKER} {report.read_text(encoding='utf-8')}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("run") / "mine")


@pytest.fixture()
def cohort(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "cohort")


def refused(folder: Path, *arguments, words=()) -> str:
    """Run a command that must fail with one line holding `words`, and leave `folder` as it was."""
    before = state(folder)
    ended = ccella(*arguments)
    assert ended.code == 1, ended
    assert (
        ended.err.startswith("ccella: ")
        and ended.err.count("\n") == 1
        and "Traceback" not in ended.err
        and "unexpected" not in ended.err
    ), ended.err
    assert MARKER not in ended.err + ended.out
    assert not [w for w in words if w not in ended.err], ended.err
    assert state(folder) == before
    return ended.err


def volume(cohort: Path, sequence: str = "adc") -> Path:
    return cohort / "exams" / EXAM / f"{sequence}.nii.gz"


def change(path: Path, make) -> None:
    """Replace a volume's voxels by `make(voxels)`."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(make(np.asarray(image.dataobj, np.float32)), np.float32), image.affine), path)


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-400])


def cut_before_the_voxels(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:600]))


def no_image(path):
    path.write_bytes(gzip.compress(MARKER.encode() * 100))


def blank(path):
    change(path, np.zeros_like)


def with_nan(path):
    change(path, lambda a: np.where(a == a.max(), np.nan, a))


def a_slice(path):
    change(path, lambda a: a[:, :, 0])


def two_channels(path):
    change(path, lambda a: np.stack([a, a], -1))


def a_voxel_less(path):
    change(path, lambda a: a[:-1])


VOLUMES = [
    (missing, "found no such file, expected a volume"),
    (empty, "found an empty file, expected a"),
    (truncated, "expected a whole volume"),
    (cut_before_the_voxels, "expected a whole volume"),
    (no_image, "expected a whole volume"),
    (blank, "found the one value 0 in every voxel"),
    (with_nan, "NaN or infinite, expected finite numbers"),
    (a_slice, "found shape 16×16, expected three axes"),
    (two_channels, "found shape 16×16×8×2, expected three axes"),
    (a_voxel_less, "found 15×16×8 voxels"),
]


@pytest.mark.parametrize("damage, words", VOLUMES, ids=lambda v: getattr(v, "__name__", ""))
def test_volumes(damage, words, cohort):
    damage(volume(cohort))
    refused(cohort.parent, "check", cohort, words=[f"exam {EXAM}, {volume(cohort)}: found ", "expected ", words])
    if damage is not blank and damage is not a_voxel_less:  # these have intensities
        refused(cohort.parent, "describe", cohort, words=[f"exam {EXAM}, {volume(cohort)}: found ", "expected "])


@pytest.mark.parametrize(
    "damage, words", [v for v in VOLUMES if v[0] is not a_voxel_less], ids=lambda v: getattr(v, "__name__", "")
)
def test_volumes_on_their_way_into_the_model(damage, words, cohort, tmp_path):
    """The exams before the bad one keep their latents; the bad one has none."""
    damage(volume(cohort))
    recipe = load_recipe("tiny", {"grid.shape": [16, 16, 8]})
    with pytest.raises(CcellaError, match=f"exam {EXAM}, .*adc.*found .*expected "):
        prepare_exam(Cohort.read(cohort)[EXAM], recipe)
    with pytest.raises(CcellaError, match=EXAM):
        encode_cohort(Cohort.read(cohort), Vae(recipe.vae), recipe, tmp_path / "cache", progress=False)
    assert sorted(p.stem for p in (tmp_path / "cache").rglob("*.safetensors")) == ["P1-3-00000", "P1-3-00001"]


def test_all_faults_at_once(cohort):
    missing(volume(cohort)), with_nan(volume(cohort, "axt2"))
    (cohort / "exams" / "P1-3-00001" / "report.txt").write_bytes(b"\xff\xfe" + MARKER.encode("utf-16-le"))
    refused(cohort.parent, "check", cohort, words=["3 faults, listed above"])
    listed = ccella("check", cohort).out.splitlines()
    assert (
        len(listed) == 3
        and all(": found " in line and ", expected " in line for line in listed)
        and {line.split(",")[0] for line in listed} == {f"exam {EXAM}", "exam P1-3-00001"}
    )


@pytest.mark.parametrize(
    "command",
    [
        "check",
        "describe",
        "generate --out out --cohort",
        "run ./new --recipe tiny --cohort",
        "encode ./new --recipe tiny --cohort",
    ],
)
def test_folders_that_are_no_cohort(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    refused(
        tmp_path,
        *command.split(),
        tmp_path / "void",
        words=["void/cohort.csv: found an empty folder, expected a cohort"],
    )
    refused(
        tmp_path,
        *command.split(),
        tmp_path / "nowhere",
        words=["nowhere/cohort.csv: found no such folder, expected a cohort"],
    )


TABLES = [
    ("exam_id,", "exam_id,colour,", "found an unknown column 'colour', expected some of exam_id"),
    ("adc", "acd", "found an unknown column 'acd'"),
    (EXAM, "P1-3-00001", "found 2 rows, expected one row per exam"),
    ("P1-3-p00002", "", "patient_id: found an empty cell, expected text"),
    ("phantom", "fantom", "kind: found 'fantom', expected one of real, phantom, synthetic"),
]


@pytest.mark.parametrize("old, new, words", TABLES, ids=[t[1] or "empty" for t in TABLES])
def test_tables(old, new, words, cohort):
    table = (cohort / "cohort.csv").read_text(encoding="utf-8")
    if new == "exam_id,colour,":
        head, *rows = table.splitlines()
        table = "\n".join([head.replace(old, new), *(row.replace(",", ",red,", 1) for row in rows)])
    else:
        table = (
            table.replace(f"exams/{EXAM}/", "exams/there/")
            .replace(old, new, 1)
            .replace("exams/there/", f"exams/{EXAM}/")
        )
    (cohort / "cohort.csv").write_text(table, encoding="utf-8")
    refused(cohort.parent, "check", cohort, words=["cohort.csv", words])


def test_reports_that_are_not_utf8(cohort, generator, tmp_path):
    wrong = cohort / "exams" / EXAM / "report.txt"
    wrong.write_bytes(f"{MARKER} é".encode("latin-1"))
    at = len(MARKER) + 1
    words = [f"exam {EXAM}, {wrong}: found a byte that is not UTF-8 at position {at}, expected a UTF-8 text file"]
    refused(tmp_path, "check", cohort, words=words)
    refused(
        tmp_path,
        "generate",
        "--run",
        generator,
        "--cohort",
        cohort,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        words=words,
    )
    refused(
        tmp_path,
        "generate",
        "--run",
        generator,
        "--report",
        wrong,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        words=["exam report", str(wrong), "not UTF-8"],
    )
    refused(tmp_path, "run", tmp_path / "new", "--recipe", "tiny", "--cohort", cohort, words=words)


@pytest.mark.parametrize(
    "content, words",
    [(b"", "found an empty file, expected a report"), (None, "found no such file, expected the report")],
    ids=["empty", "missing"],
)
def test_reports_that_are_none(content, words, generator, tmp_path):
    if content is not None:
        (tmp_path / "report.txt").write_bytes(content)
    refused(
        tmp_path,
        "generate",
        "--run",
        generator,
        "--report",
        tmp_path / "report.txt",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        words=[f"{tmp_path / 'report.txt'}: {words}"],
    )


RECIPES = [
    ("parent: tiny\ntrain: {stepz: 3}\n", "unknown key 'train.stepz'; known keys of train: start_from, steps"),
    ("parent: tiny\ncolour: red\n", "unknown key 'colour'"),
    ("parent: tiny\ntrain: {steps: many}\n", "train.steps: "),
    ("parent: tiny\ntrain: [\n", "not a readable YAML file"),
    ("parent: nobody\n", "recipe: found no 'nobody', expected a .yaml file or one of"),
    ("parent: tiny\ngrid: {shape: [30, 30, 8]}\n", "grid.shape (30, 30, 8) must be divisible by"),
]


@pytest.mark.parametrize("content, words", RECIPES, ids=[r[0].split("\n")[1] or "nobody" for r in RECIPES])
def test_recipes(content, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    for command in (
        ("recipes", tmp_path / "mine.yaml"),
        ("run", tmp_path / "new", "--recipe", tmp_path / "mine.yaml"),
        ("train", tmp_path / "new", "--recipe", tmp_path / "mine.yaml"),
    ):
        refused(tmp_path, *command, words=["recipe" if "nobody" in content else "mine.yaml", words])
    refused(
        tmp_path,
        "run",
        tmp_path / "new",
        "--recipe",
        "tiny",
        "--set",
        "train.stepz=3",
        words=["unknown key 'train.stepz'"],
    )


def test_runs_that_are_none_or_of_another_recipe(generator, tmp_path):
    report = tmp_path / "report.txt"
    report.write_text(REPORT, encoding="utf-8")
    refused(
        tmp_path,
        "generate",
        "--run",
        tmp_path / "nowhere",
        "--report",
        report,
        "--out",
        tmp_path / "out",
        words=["nowhere/model: no model here", "model.safetensors"],
    )
    mine = shutil.copytree(generator, tmp_path / "mine")
    refused(tmp_path, "run", mine, "--recipe", "demo", words=[f"{mine}: not a run and not empty"])
    (mine / "model" / "limits.json").unlink()
    refused(
        tmp_path,
        "generate",
        "--run",
        mine,
        "--report",
        report,
        "--out",
        tmp_path / "out",
        words=["limits.json: no such file, expected the scanner units"],
    )
    with open(mine / "model" / "model.safetensors", "r+b") as weights:
        weights.truncate(5000)
    refused(
        tmp_path,
        "generate",
        "--run",
        mine,
        "--report",
        report,
        "--out",
        tmp_path / "out",
        words=["model.safetensors: not a readable safetensors file"],
    )


def test_a_run_of_another_recipe_begun(tmp_path):
    from ccella.studies.run import Run, write_request

    write_request(Run(tmp_path / "mine"), "tiny")
    refused(
        tmp_path,
        "run",
        tmp_path / "mine",
        "--recipe",
        "demo",
        words=[str(tmp_path / "mine"), "'tiny'", "'demo'", "another folder"],
    )
    (tmp_path / "thesis").mkdir(), (tmp_path / "thesis" / "chapter1.txt").write_text("It was", encoding="utf-8")
    refused(tmp_path, "run", tmp_path / "thesis", "--recipe", "tiny", words=[str(tmp_path / "thesis"), "chapter1.txt"])
    refused(tmp_path, "encode", tmp_path / "mine", "--recipe", "demo", words=["another folder"])
    refused(tmp_path, "train", tmp_path / "new", "--recipe", "tiny", "--set", "cohort.exmas=3", words=["exmas"])


def test_a_model_folder_of_another_recipe(generator, tmp_path):
    model, recipe = load_model(generator / "model")
    folder = shutil.copytree(generator / "model", tmp_path / "model")
    before, other = state(tmp_path), recipe.model_copy(update={"seed": 5})
    with pytest.raises(CcellaError, match=r"holds a model of another recipe.*seed: 0 there, 5 here"):
        save_model(model, folder, other, {})
    with pytest.raises(CcellaError, match="another recipe"):
        load_model(folder, load_recipe("tiny"))
    with pytest.raises(CcellaError, match="another recipe"):
        check_folder(folder, other)
    assert state(tmp_path) == before and isinstance(model, LatentDiffusion)


def test_other_peoples_folders_are_kept(cohort, generator, tmp_path):
    """A cohort is never written over: not by phantoms, not by synthetic exams."""
    refused(
        tmp_path,
        "phantom",
        cohort,
        "--exams",
        30,
        "--grid",
        16,
        16,
        8,
        "--seed",
        4,
        words=["cohort.csv: found another cohort", "would be lost"],
    )
    refused(
        tmp_path,
        "generate",
        "--run",
        generator,
        "--cohort",
        cohort,
        "--out",
        cohort,
        "--device",
        "cpu",
        words=[str(cohort), "name another folder"],
    )
    refused(
        tmp_path,
        "phantom",
        cohort,
        "--exams",
        4,
        "--grid",
        32,
        32,
        8,
        "--seed",
        3,
        "--no-split",
        words=[f"{cohort}: found a cohort made by", "16, 16, 8", "32, 32, 8"],
    )
    refused(
        tmp_path,
        "phantom",
        tmp_path / "few",
        "--exams",
        4,
        "--grid",
        16,
        16,
        8,
        "--seed",
        3,
        words=["expected at least 3, one in each of train, val, test"],
    )
    refused(
        tmp_path, "phantom", tmp_path / "flat", "--grid", 16, 16, 1, words=["grid: found (16, 16, 1)", "at least 8"]
    )
    refused(
        tmp_path,
        "phantom",
        tmp_path / "rule",
        "--label-rule",
        "guess",
        words=["label rule: found 'guess', expected one of pirads, histology"],
    )
