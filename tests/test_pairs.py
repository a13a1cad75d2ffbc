"""Any two cohorts are evaluated: small, lopsided, in any order; what cannot be measured is said, never raised."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ccella.core import CcellaError, read_json
from ccella.exams.cohort import Cohort, draw_exams
from ccella.measures.published import load_feature_network
from ccella.organs.prostate.phantom import write_phantoms
from ccella.recipe import load_recipe
from ccella.studies.evaluation import evaluate_cohorts, recipe_of
from ccella.studies.evaluation_page import example_exams, write_evaluation

RECIPE = load_recipe("tiny", {"classifier.epochs": 1})
NETWORK = load_feature_network()
PARTS = ("fidelity", "diversity", "faithfulness", "text_probe", "copies", "utility")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Real exams, enough for every part, with second visits."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "real", 40, 1, RECIPE.grid.shape, seed=3)


@pytest.fixture(scope="module")
def pair(phantoms):
    """26 exams that play the real ones, and 14 the synthetic ones, each made from the report of a real one."""
    table = phantoms.table
    real = replace(phantoms, table=table.head(26).assign(split=["train"] * 16 + ["test"] * 10))
    made = table.tail(14).assign(kind="synthetic", split="", source_exam_id=list(table.exam_id[10:24]))
    return real, replace(phantoms, table=made.reset_index(drop=True))


def few(cohort: Cohort, n: int) -> Cohort:
    """The first exams, without a split."""
    return replace(cohort, table=cohort.table.head(n).assign(split=""))


def zero_widths(found, where: str = "") -> list[str]:
    """Where an interval has no width."""
    if isinstance(found, dict):
        if found.get("low") is not None and found["low"] == found.get("high"):
            return [where]
        return [path for key, value in found.items() for path in zero_widths(value, f"{where}.{key}")]
    if isinstance(found, (list, tuple)):
        return [path for i, value in enumerate(found) for path in zero_widths(value, f"{where}[{i}]")]
    return []


def evaluated(real: Cohort, synthetic: Cohort, folder, **settings) -> tuple[dict, str]:
    """Evaluate two cohorts and write the page; no interval may be of zero width."""
    found, _ = evaluate_cohorts(real, synthetic, RECIPE, [NETWORK], draws=3, **settings)
    page = write_evaluation(found, {"examples": example_exams(real, synthetic, RECIPE)}, folder / "out")
    kept = read_json(folder / "out" / "evaluation.json")
    assert zero_widths(kept) == []
    for row in kept["glance"]:
        for ends in (row["synthetic_interval"], row["real_interval"], row["place_interval"]):
            assert ends is None or ends[0] < ends[1], row
    return found, page.read_text(encoding="utf-8")


def not_measured(found: dict) -> set[str]:
    """The parts that say why they were not measured."""
    return {part for part in PARTS if "not_measured" in found[part]}


@pytest.mark.parametrize("n", [1, 3])
def test_cohorts_of_few_exams(n, pair, tmp_path):
    real, made = pair
    found, page = evaluated(few(real, n), few(made, n), tmp_path)
    assert {"fidelity", "text_probe", "copies", "utility"} <= not_measured(found)
    assert "needs n ≥ 12 patients" in page and "needs n ≥ 4" in page and "4 patients of each kind" in page
    assert "voxels" in page and " mm" in page, "the page says what it looks at"


@pytest.mark.slow
def test_one_class_no_reports_and_one_patient(pair, tmp_path):
    real, made = pair
    negative = replace(made, table=made.table.assign(label=0, pirads=2, isup=pd.NA))
    found, page = evaluated(real, negative, tmp_path / "class")
    assert "labels of both classes" in found["utility"]["not_measured"]
    silent = replace(made, table=made.table.assign(report=""))
    found, page = evaluated(few(real, 5), few(silent, 5), tmp_path / "silent")
    assert "no reports" in found["faithfulness"]["not_measured"] and "no reports" in page
    alone = replace(real, table=real.table.assign(patient_id="p"))
    found, page = evaluated(alone, made, tmp_path / "alone")
    assert "found 0 in one" in found["fidelity"]["not_measured"]


def test_a_cohort_against_itself(phantoms, pair, tmp_path):
    real, _ = pair
    found, _ = evaluated(real, real, tmp_path)
    assert "text_probe" in not_measured(found), "no exam tests what was fitted on it"
    assert found["utility"]["agreement"]["n"] == 10, "the test exams alone"
    assert found["copies"]["copies"] >= 16


def test_reports_that_were_fitted_on_test_nothing(pair, tmp_path):
    real, made = pair
    found, _ = evaluated(real, made, tmp_path)
    assert found["utility"]["agreement"]["n"] <= 8, "6 of 14 synthetic exams show reports of training exams"
    assert found["utility"]["trained_on"] == 14 and not_measured(found) <= {"text_probe"}


@pytest.mark.slow
def test_the_order_of_the_tables_decides_nothing(pair, tmp_path):
    real, made = pair
    first, _ = evaluated(real, made, tmp_path / "first")
    by_class = replace(real, table=real.table.sort_values(["label", "exam_id"]).reset_index(drop=True))
    shuffled = replace(made, table=made.table.sample(frac=1, random_state=1).reset_index(drop=True))
    again, _ = evaluated(by_class, shuffled, tmp_path / "again")
    for part in ("fidelity", "diversity", "intensities", "faithfulness", "utility", "copies", "field", "flags", "n"):
        assert again[part] == first[part], part


def test_the_order_of_sequences_decides_nothing(pair, tmp_path):
    real, made = pair
    turned = replace(made, sequences=made.sequences[::-1], table=made.table[made.table.columns[::-1]])
    first, _ = evaluated(few(real, 4), few(made, 4), tmp_path / "first")
    again, _ = evaluated(few(real, 4), few(turned, 4), tmp_path / "again")
    assert again["intensities"] == first["intensities"]


def moved(cohort: Cohort, folder, zoom: float, pad: int) -> Cohort:
    """The exams with other voxels, and with an edge around them."""
    for exam in cohort:
        for path in [*exam.files.values(), exam.gland]:
            image = nib.load(path)
            array = np.pad(np.asanyarray(image.dataobj), [(pad, pad), (pad, pad), (0, 0)], mode="edge")
            target = folder / path.relative_to(cohort.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            affine = image.affine @ np.diag([zoom, zoom, 1, 1])
            nib.save(nib.Nifti1Image(array, affine), target)
    return replace(cohort, root=folder, table=cohort.table.assign(report="", truth=""))


def test_other_spacing_and_other_grids(pair, tmp_path):
    real, made = pair
    other = moved(few(made, 4), tmp_path / "moved", 1.5, 8)
    found, page = evaluated(few(real, 4), other, tmp_path)
    assert any("the spacing differs" in flag for flag in found["flags"]) and "The spacing differs" in page
    ratio = np.divide(found["field"]["synthetic"]["field_mm"], found["field"]["real"]["field_mm"])
    assert 1.3 < ratio[0] < 1.7 and abs(ratio[2] - 1) < 0.2


def test_a_field_that_cuts_the_gland_is_refused(pair):
    real, made = pair
    small = RECIPE.model_copy(update={"grid": RECIPE.grid.model_copy(update={"shape": (8, 8, 8)})})
    with pytest.raises(CcellaError, match=r"found a part of the gland outside the box in [1-6] of 6 exams.*--recipe"):
        evaluate_cohorts(few(real, 3), few(made, 3), small, [NETWORK])


def test_networks_of_phantoms_are_called_so_on_patients(pair, tmp_path):
    real, made = pair
    patients = replace(real, table=real.table.assign(kind="real"))
    _, page = evaluated(few(patients, 3), few(made, 3), tmp_path / "patients")
    assert "mean nothing on patients" in page
    _, page = evaluated(few(real, 3), few(made, 3), tmp_path / "phantoms")
    assert "mean nothing on patients" not in page


def test_the_recipe_comes_from_the_synthetic_cohort_or_is_named(pair):
    _, made = pair
    told = replace(made, meta={"recipe": RECIPE.model_dump(mode="json")})
    assert recipe_of(told).flat() == RECIPE.flat()
    with pytest.raises(CcellaError, match=r"found no recipe in cohort\.json.*--recipe"):
        recipe_of(made)


def test_a_draw_is_proportional_whatever_the_order(phantoms):
    listed = sorted(phantoms, key=lambda exam: (exam.label, exam.exam_id))
    drawn = draw_exams(listed, 20, 1)
    assert [exam.exam_id for exam in drawn] == [exam.exam_id for exam in draw_exams(reversed(listed), 20, 1)]
    expected = sum(exam.label for exam in phantoms) / 2
    assert abs(sum(exam.label for exam in drawn) - expected) <= 1
