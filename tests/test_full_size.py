"""CCELLA++ at the papers' size. By hand, since it takes half an hour: `pytest -m by_hand tests/test_full_size.py`."""

import json
import os
from pathlib import Path

import papermill
import pytest

RECORDS = Path(__file__).parents[1] / "nbs" / "records"
LIMIT_GB = 20


@pytest.mark.by_hand
def test_a_full_size_exam_on_a_cpu(tmp_path):
    papermill.execute_notebook(
        RECORDS / "full_size.ipynb",
        tmp_path / "full_size.ipynb",
        {"out": str(tmp_path), "threads": os.cpu_count()},
        cwd=RECORDS,
        kernel_name="python3",
        progress_bar=False,
    )
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["exam"] == [3, 256, 256, 128] and round(found["parameters"] / 1e6, 1) == 575.5
    assert found["peak_gb"] < LIMIT_GB


def test_its_record_keeps_within_the_limit():
    found = json.loads((RECORDS / "full_size.metrics.json").read_text())
    assert (
        found["exam"] == [3, 256, 256, 128]
        and round(found["parameters"] / 1e6, 1) == 575.5
        and found["text_parameters"] > 4.5e9
    )
    phases = {k.removesuffix(".peak_gb"): v for k, v in found.items() if k.endswith(".peak_gb")}
    assert len(phases) == 6 and max(phases.values()) == found["peak_gb"] < LIMIT_GB
