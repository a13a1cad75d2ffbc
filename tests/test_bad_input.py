"""Bad input, as people have it: each fault is one line that names exam, file, found and expected.

Nothing is written, nothing lost, and no word of a report is told.
"""

import gzip
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from runs import MARKER, REPORT, ccella, state, write_generator

from ccella.core import CcellaError
from ccella.exams.cohort import Cohort
from ccella.exams.prepare import prepare_exam
from ccella.models.autoencoder import Vae
from ccella.models.latents import encode_cohort
from ccella.models.ldm import LatentDiffusion, check_folder, load_model, save_model
from ccella.recipe import load_recipe
from ccella.studies.run import Run, write_request

EXAM = "P1-3-00002"
SOUND = {"grid": (16, 16, 8), "seed": 3}  # the phantoms of these tests


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Four small phantoms without a fault; every report holds the marker."""
    folder = tmp_path_factory.mktemp("sound") / "cohort"
    made = ccella("phantom", folder, exams=4, no_split=True, **SOUND)
    assert made.code == 0, made
    for report in folder.rglob("report.txt"):
        text = report.read_text(encoding="utf-8")
        report.write_text(f"{MARKER} {text}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("run") / "mine")


@pytest.fixture()
def cohort(sound, tmp_path):
    """A copy of the sound cohort, to be damaged."""
    return shutil.copytree(sound, tmp_path / "cohort")


def refused(folder: Path, *arguments, words, **options) -> None:
    """Run a command that must fail with one line holding `words`, and leave `folder` as it was."""
    before = state(folder)
    ended = ccella(*arguments, **options)
    assert ended.code == 1, ended
    assert ended.err.startswith("ccella: ")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    assert "unexpected" not in ended.err
    assert MARKER not in ended.err + ended.out
    for word in words:
        assert word in ended.err
    assert state(folder) == before


def volume(cohort: Path, sequence: str = "adc") -> Path:
    return cohort / "exams" / EXAM / f"{sequence}.nii.gz"


def change(path: Path, make) -> None:
    """Replace a volume's voxels by `make(voxels)`."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj, np.float32)
    changed = np.asarray(make(voxels), np.float32)
    nib.save(nib.Nifti1Image(changed, image.affine), path)


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-400])


def cut_before_the_voxels(path):
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:600]))


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


VOLUMES = {
    missing: "found no such file, expected a volume",
    empty: "found an empty file, expected a",
    truncated: "expected a whole volume",
    cut_before_the_voxels: "expected a whole volume",
    no_image: "expected a whole volume",
    blank: "found the one value 0 in every voxel",
    with_nan: "NaN or infinite, expected finite numbers",
    a_slice: "found shape 16×16, expected three axes",
    two_channels: "found shape 16×16×8×2, expected three axes",
}
FAULTS = [pytest.param(damage, words, id=damage.__name__) for damage, words in VOLUMES.items()]
UNREADABLE = [pytest.param(damage, id=damage.__name__) for damage in VOLUMES]


@pytest.mark.parametrize("damage, words", FAULTS)
def test_volumes(damage, words, cohort):
    """A damaged volume is named, with what was found in it."""
    path = volume(cohort)
    damage(path)
    found = f"exam {EXAM}, {path}: found "
    refused(cohort.parent, "check", cohort, words=[found, "expected ", words])
    refused(cohort.parent, "describe", cohort, words=[found, "expected "])


def test_another_grid_is_a_note(cohort):
    """A sequence on a grid of its own is resampled, and `check` says so; one of another place is refused."""
    a_voxel_less(volume(cohort))
    ended = ccella("check", cohort)
    assert ended.code == 0
    assert f"exam {EXAM}, {volume(cohort)}: another grid than axt2" in ended.out
    image = nib.load(volume(cohort))
    away = image.affine @ nib.affines.from_matvec(np.eye(3), (14, 0, 0))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), away), volume(cohort))
    refused(cohort.parent, "check", cohort, words=["of which it covers 0% where the gland is, expected at least half"])


NO_LESION_MASKS = "lesion masks: 4 of 4 exams to learn from have none; the recipe weighs lesions by 30"


def test_lesions_that_are_weighed_but_have_no_mask(cohort, tmp_path, monkeypatch):
    """`check` counts the masks; before a run begins, it says which exams are learnt without the recipe's weight."""
    monkeypatch.setattr("ccella.studies.engine.execute_run", lambda *_, **__: [])
    masked = ccella("check", cohort, recipe="tiny")
    begun = ccella("run", tmp_path / "masked", recipe="tiny", cohort=cohort)
    assert masked.code == begun.code == 0, begun
    assert re.search(r"lesion masks +4\b", masked.out)
    assert "lesion masks:" not in masked.out + begun.out
    table = pd.read_csv(cohort / "cohort.csv", dtype=str, keep_default_na=False)
    table.assign(truth="").to_csv(cohort / "cohort.csv", index=False)
    seen = ccella("check", cohort, recipe="tiny")
    assert re.search(r"lesion masks +0\b", seen.out)
    assert NO_LESION_MASKS in seen.out
    assert NO_LESION_MASKS not in ccella("check", cohort).out
    begun = ccella("run", tmp_path / "new", recipe="tiny", cohort=cohort)
    assert f"{cohort}: {NO_LESION_MASKS}, these exams are learnt without that weight" in begun.out
    plain = ccella("run", tmp_path / "plain", recipe="tiny", cohort=cohort, set="objective.region_weight.lesion=1")
    assert plain.code == 0
    assert "lesion masks:" not in plain.out


@pytest.mark.parametrize("damage", UNREADABLE)
def test_volumes_on_their_way_into_the_model(damage, cohort, tmp_path):
    """The exams before the bad one keep their latents; the bad one has none."""
    damage(volume(cohort))
    recipe = load_recipe("tiny", {"grid.shape": [16, 16, 8]})
    bad = Cohort.read(cohort)[EXAM]
    with pytest.raises(CcellaError, match=f"exam {EXAM}, .*adc.*found .*expected "):
        prepare_exam(bad, recipe)
    cache = tmp_path / "cache"
    with pytest.raises(CcellaError, match=EXAM):
        encode_cohort(Cohort.read(cohort), Vae(recipe.vae), recipe, cache, progress=False)
    encoded = sorted(path.stem for path in cache.rglob("*.safetensors"))
    assert encoded == ["P1-3-00000", "P1-3-00001"]


def test_all_faults_at_once(cohort):
    """`check` does not stop at the first fault, nor at the first faulty exam."""
    missing(volume(cohort))
    with_nan(volume(cohort, "axt2"))
    other_report = cohort / "exams" / "P1-3-00001" / "report.txt"
    other_report.write_bytes(b"\xff\xfe" + MARKER.encode("utf-16-le"))
    refused(cohort.parent, "check", cohort, words=["found 3 faults, expected none; they are listed above"])
    listed = [line for line in ccella("check", cohort).out.splitlines() if line.startswith("exam ")]
    assert len(listed) == 3
    for line in listed:
        assert ": found " in line
        assert ", expected " in line
    exams = {line.split(",")[0] for line in listed}
    assert exams == {f"exam {EXAM}", "exam P1-3-00001"}


TAKE_A_COHORT = [
    "check",
    "describe",
    "generate --out out --cohort",
    "run ./new --recipe tiny --cohort",
    "encode ./new --recipe tiny --cohort",
]


@pytest.mark.parametrize("command", TAKE_A_COHORT)
def test_folders_that_are_no_cohort(command, tmp_path, monkeypatch):
    """An empty folder and a missing one are told apart, by every command that takes a cohort."""
    monkeypatch.chdir(tmp_path)
    void, nowhere = tmp_path / "void", tmp_path / "nowhere"
    void.mkdir()
    is_empty = "void/cohort.csv: found an empty folder, expected a cohort"
    is_missing = "nowhere/cohort.csv: found no such folder, expected a cohort"
    refused(tmp_path, *command.split(), void, words=[is_empty])
    refused(tmp_path, *command.split(), nowhere, words=[is_missing])


def add_column(table: str) -> str:
    """Add a column `exam_idd` that says red in every row."""
    head, *rows = table.splitlines()
    head = head.replace("exam_id,", "exam_id,exam_idd,")
    rows = [row.replace(",", ",red,", 1) for row in rows]
    return "\n".join([head, *rows])


def cell(old: str, new: str):
    """A change of the first `old` of a table that is not in the path of a file."""
    paths, aside = f"exams/{EXAM}/", "exams/there/"

    def changed(table: str) -> str:
        return table.replace(paths, aside).replace(old, new, 1).replace(aside, paths)

    return changed


UNKNOWN_COLUMN = "found an unknown column 'exam_idd', expected some of exam_id"
UNKNOWN_KIND = "kind: found 'fantom', expected one of real, phantom, synthetic"
TABLES = [
    pytest.param(add_column, UNKNOWN_COLUMN, id="exam_id,exam_idd,"),
    pytest.param(cell("adc", "acd"), "found an unknown column 'acd'", id="acd"),
    pytest.param(cell(EXAM, "P1-3-00001"), "found 2 rows, expected one row per exam", id="P1-3-00001"),
    pytest.param(cell("P1-3-p00002", ""), "patient_id: found an empty cell, expected text", id="empty"),
    pytest.param(cell("phantom", "fantom"), UNKNOWN_KIND, id="fantom"),
]


@pytest.mark.parametrize("damage, words", TABLES)
def test_tables(damage, words, cohort):
    """A wrong cohort.csv is refused, with the column or cell that is wrong."""
    path = cohort / "cohort.csv"
    table = path.read_text(encoding="utf-8")
    path.write_text(damage(table), encoding="utf-8")
    refused(cohort.parent, "check", cohort, words=[str(cohort), words])


def test_reports_that_are_not_utf8(cohort, generator, tmp_path):
    """The byte's position is told, and nothing of the text around it."""
    wrong = cohort / "exams" / EXAM / "report.txt"
    wrong.write_bytes(f"{MARKER} é".encode("latin-1"))
    at = len(MARKER) + 1
    words = [f"exam {EXAM}, {wrong}: found a byte that is not UTF-8 at position {at}, expected a UTF-8 text file"]
    generate = {"run": generator, "out": tmp_path / "out", "device": "cpu"}
    refused(tmp_path, "check", cohort, words=words)
    refused(tmp_path, "generate", cohort=cohort, **generate, words=words)
    refused(tmp_path, "generate", report=wrong, **generate, words=["exam report", str(wrong), "not UTF-8"])
    refused(tmp_path, "run", tmp_path / "new", recipe="tiny", cohort=cohort, words=words)


NO_REPORTS = [
    pytest.param(b"", "found an empty file, expected a report", id="empty"),
    pytest.param(None, "found no such file, expected the report", id="missing"),
]


@pytest.mark.parametrize("content, words", NO_REPORTS)
def test_reports_that_are_none(content, words, generator, tmp_path):
    """Nothing is generated from a report that says nothing."""
    report, out = tmp_path / "report.txt", tmp_path / "out"
    if content is not None:
        report.write_bytes(content)
    refused(tmp_path, "generate", run=generator, report=report, out=out, device="cpu", words=[f"{report}: {words}"])


WRONG_LINES = {
    "train: {stepz: 3}": "found an unknown key 'train.stepz', expected one of the known keys of train: start_from",
    "colour: red": "found an unknown key 'colour'",
    "train: {steps: many}": "train.steps: ",
    "train: [": "not a readable YAML file",
    "grid: {shape: [30, 30, 8]}": "grid.shape (30, 30, 8) must be divisible by",
}
RECIPES = [pytest.param(f"parent: tiny\n{line}\n", words, id=line) for line, words in WRONG_LINES.items()]
RECIPES.append(
    pytest.param("parent: nobody\n", "recipe: found no 'nobody', expected a .yaml file or one of", id="nobody")
)


@pytest.mark.parametrize("content, words", RECIPES)
def test_recipes(content, words, tmp_path):
    """A wrong recipe is refused by every command that reads one, before the run's folder is made."""
    path, new = tmp_path / "mine.yaml", tmp_path / "new"
    path.write_text(content, encoding="utf-8")
    named = "recipe" if "nobody" in content else "mine.yaml"
    refused(tmp_path, "recipes", path, words=[named, words])
    refused(tmp_path, "run", new, recipe=path, words=[named, words])
    refused(tmp_path, "train", new, recipe=path, words=[named, words])
    refused(tmp_path, "plan", path, exams=10, words=[named, words])
    refused(tmp_path, "run", new, recipe="tiny", set="train.stepz=3", words=["found an unknown key 'train.stepz'"])


def test_runs_that_are_none_or_of_another_recipe(generator, tmp_path):
    """A folder without a model, or with half of one, is told by the file that is missing or broken."""
    report = tmp_path / "report.txt"
    report.write_text(REPORT, encoding="utf-8")
    generate = {"report": report, "out": tmp_path / "out"}

    nowhere = tmp_path / "nowhere"
    no_model = ["nowhere/model: found no model", "model.safetensors"]
    refused(tmp_path, "generate", run=nowhere, **generate, words=no_model)

    mine = shutil.copytree(generator, tmp_path / "mine")
    refused(tmp_path, "run", mine, recipe="demo", words=[f"{mine}: found"])

    (mine / "model" / "limits.json").unlink()
    no_limits = ["limits.json: found no such file, expected the scanner units"]
    refused(tmp_path, "generate", run=mine, **generate, words=no_limits)

    with open(mine / "model" / "model.safetensors", "r+b") as weights:
        weights.truncate(5000)
    no_weights = ["model.safetensors: found a file that cannot be read"]
    refused(tmp_path, "generate", run=mine, **generate, words=no_weights)


def test_what_has_no_card(cohort, tmp_path, monkeypatch):
    """Neither a folder of something else nor a run without a model; a card in other letters keeps its answers."""
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "card", "nothing", words=["nothing: found neither cohort.csv in it nor a run in runs/nothing"])
    write_request(Run("runs/begun"), "tiny")
    refused(tmp_path, "card", "begun", words=["runs/begun: found no model, expected a trained one; `ccella train"])
    (cohort / "card.md").write_bytes("| Contact | Jürgen |\n".encode("latin-1"))
    refused(tmp_path, "card", cohort, words=["card.md: found letters that are not UTF-8", "save it as UTF-8"])


def test_a_run_of_another_recipe_begun(tmp_path):
    """A begun run of another recipe, and a folder with other people's work, are left alone."""
    mine, thesis = tmp_path / "mine", tmp_path / "thesis"
    write_request(Run(mine), "tiny")
    refused(tmp_path, "run", mine, recipe="demo", words=[str(mine), "'tiny'", "'demo'", "another folder"])

    thesis.mkdir()
    (thesis / "chapter1.txt").write_text("It was", encoding="utf-8")
    refused(tmp_path, "run", thesis, recipe="tiny", words=[str(thesis), "chapter1.txt"])

    refused(tmp_path, "encode", mine, recipe="demo", words=["another folder"])
    refused(tmp_path, "train", tmp_path / "new", recipe="tiny", set="cohort.exmas=3", words=["exmas"])


def test_a_model_folder_of_another_recipe(generator, tmp_path):
    """A model is neither written over nor read by another recipe, and its folder stays as it was."""
    model, recipe = load_model(generator / "model")
    assert isinstance(model, LatentDiffusion)
    folder = shutil.copytree(generator / "model", tmp_path / "model")
    before = state(tmp_path)
    other = recipe.model_copy(update={"seed": 5})
    with pytest.raises(CcellaError, match=r"found a model of another recipe.*seed: 0 there, 5 here"):
        save_model(model, folder, other, {})
    with pytest.raises(CcellaError, match="another recipe"):
        load_model(folder, load_recipe("tiny"))
    with pytest.raises(CcellaError, match="another recipe"):
        check_folder(folder, other)
    assert state(tmp_path) == before


def test_other_peoples_folders_are_kept(cohort, generator, tmp_path):
    """A cohort is never written over: not by phantoms, not by synthetic exams."""
    more = {"exams": 30, "grid": (16, 16, 8), "seed": 4}
    refused(tmp_path, "phantom", cohort, **more, words=["cohort.csv: found another cohort", "would be lost"])

    synthetic = {"run": generator, "cohort": cohort, "out": cohort, "device": "cpu"}
    refused(tmp_path, "generate", **synthetic, words=[str(cohort), "name another folder"])

    larger = {"exams": 4, "grid": (32, 32, 8), "seed": 3, "no_split": True}
    made_by = [f"{cohort}: found a cohort made by", "16, 16, 8", "32, 32, 8"]
    refused(tmp_path, "phantom", cohort, **larger, words=made_by)

    few, flat, rule = tmp_path / "few", tmp_path / "flat", tmp_path / "rule"
    too_few = ["expected at least 3, one in each of train, val, test"]
    refused(tmp_path, "phantom", few, exams=4, **SOUND, words=too_few)
    refused(tmp_path, "phantom", flat, grid=(16, 16, 1), words=["grid: found (16, 16, 1)", "at least 8"])
    unknown = ["label rule: found 'guess', expected one of pirads, histology"]
    refused(tmp_path, "phantom", rule, label_rule="guess", words=unknown)
