"""CCELLA++ at the papers' size, and the same cells at a small one.

The papers' size is walked by hand, since it takes a night: `pytest -m by_hand tests/test_full_size.py -k papers`.
"""

import json
from pathlib import Path

import papermill
import pytest

from ccella.studies.run import STAGES

RECORDS = Path(__file__).parents[1] / "nbs" / "records"
LIMIT_GB = 20
STAGE_LIMIT_GB = 16
PHASES = ("text: load", "text: read", "denoiser: load", "denoiser: 2 steps", "decode: load", "decode: three sequences")
NETWORKS = ("medicalnet", "radimagenet")
SMALL = RECORDS / "full_size_small.yaml"


def walked(folder: Path, **parameters) -> dict:
    """Run the record's notebook into a folder, and give what it measured."""
    papermill.execute_notebook(
        RECORDS / "full_size.ipynb",
        folder / "full_size.ipynb",
        {"out": str(folder / "out"), **parameters},
        cwd=RECORDS,
        kernel_name="python3",
        progress_bar=False,
    )
    return json.loads((folder / "out" / "metrics.json").read_text())


def check_measured(found: dict) -> None:
    """Every stage, phase and network has its seconds and its memory, and the highest of all is told."""
    names = {f"stage {name}" for name in STAGES} | {*PHASES} | {f"features: {name}" for name in NETWORKS}
    for key in ("seconds", "peak_gb"):
        values = {name.removesuffix(f".{key}"): value for name, value in found.items() if name.endswith(f".{key}")}
        assert values.keys() == names
        assert min(values.values()) > 0
    assert found["peak_gb"] == max(values.values())


def check_size(found: dict) -> None:
    """Three sequences of the papers' size, by the papers' number of weights."""
    assert found["exam"] == [3, 256, 256, 128]
    assert round(found["parameters"] / 1e6, 1) == 575.5
    assert found["text_parameters"] > 4.5e9


@pytest.mark.slow
@pytest.mark.by_hand
def test_the_road_at_the_papers_size(tmp_path):
    """All six stages on this machine, in memory that a laptop has."""
    found = walked(tmp_path)
    check_measured(found)
    check_size(found)
    assert found["peak_gb"] < STAGE_LIMIT_GB


@pytest.mark.slow
def test_the_same_cells_at_a_small_size(tmp_path):
    """The notebook takes its sizes from the recipe, and leaves no random weights behind."""
    found = walked(tmp_path, recipe=str(SMALL))
    check_measured(found)
    assert found["exam"] == [3, 32, 32, 16]
    assert found["features"] == dict.fromkeys(NETWORKS, 2048)
    assert found["recipe"] == "small"
    run = tmp_path / "out" / "run"
    assert (run / "report.html").is_file()
    assert not (run / "model").exists()
    assert not (tmp_path / "out" / "weights").exists()


def test_its_record_keeps_within_the_limit():
    """The record that is in git is of full size, and its peak is the highest of its six phases."""
    found = json.loads((RECORDS / "full_size.metrics.json").read_text())
    check_size(found)
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
