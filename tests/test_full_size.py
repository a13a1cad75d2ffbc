"""CCELLA++ at the papers' size. By hand, since it takes half an hour: `pytest -m by_hand tests/test_full_size.py`."""

import json
import os
from pathlib import Path

import papermill
import pytest

RECORDS = Path(__file__).parents[1] / "nbs" / "records"
LIMIT_GB = 20


def check_size(found: dict) -> None:
    """Three sequences of the papers' size, by the papers' number of weights."""
    assert found["exam"] == [3, 256, 256, 128]
    assert round(found["parameters"] / 1e6, 1) == 575.5


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_full_size_exam_on_a_cpu(tmp_path):
    """An exam of full size is made on this machine, in memory that a workstation has."""
    papermill.execute_notebook(
        RECORDS / "full_size.ipynb",
        tmp_path / "full_size.ipynb",
        {"out": str(tmp_path), "threads": os.cpu_count()},
        cwd=RECORDS,
        kernel_name="python3",
        progress_bar=False,
    )
    found = json.loads((tmp_path / "metrics.json").read_text())
    check_size(found)
    assert found["peak_gb"] < LIMIT_GB


def test_its_record_keeps_within_the_limit():
    """The record that is in git is of full size, and its peak is the highest of its six phases."""
    found = json.loads((RECORDS / "full_size.metrics.json").read_text())
    check_size(found)
    assert found["text_parameters"] > 4.5e9
    peaks = [value for name, value in found.items() if name.endswith(".peak_gb")]
    assert len(peaks) == 6
    assert max(peaks) == found["peak_gb"]
    assert found["peak_gb"] < LIMIT_GB


def test_plans_reckon_with_the_speeds_that_the_record_measured():
    from ccella.core import packaged
    from ccella.recipe import load_recipe
    from ccella.studies.cost import autoencoder_costs, denoiser_cost

    found = json.loads((RECORDS / "full_size.metrics.json").read_text())
    entries = json.loads((packaged("grid") / "speeds.json").read_text())
    (speeds,) = [entry for entry in entries if entry["record"] == "full_size"]
    recipe = load_recipe(speeds["recipe"])
    _, decoder = autoencoder_costs(recipe)
    expected = {
        "denoiser": 2 * denoiser_cost(recipe).tflop / found["denoiser: 2 steps.seconds"],
        "autoencoder": 3 * decoder.tflop / found["decode: three sequences.seconds"],
    }
    assert speeds["threads"] == found["threads"]
    assert {kind: speeds["tflop_per_s"][kind] for kind in expected} == pytest.approx(expected, rel=0.01)
