"""All six stages of a run, through the engine: once, again, changed, broken, killed in the middle of training."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from papermill import inspect_notebook
from transformers import T5EncoderModel

from ccella.core import CcellaError
from ccella.exams.cohort import Cohort
from ccella.models.text import save_text_encoder, small_t5_config, train_tokenizer
from ccella.recipe import load_recipe
from ccella.studies.engine import execute_run, find_notebooks
from ccella.studies.run import COMMON_PARAMETERS, STAGES, Run

pytestmark = pytest.mark.slow  # one run, in this order: a file stays in one process
SMALL = {
    "cohort": {"exams": 24, "fresh": 12, "other": 10},
    "encode": {"reconstructions": 2},
    "evaluate": {"reference": 12, "untrained": 6, "reports": 30, "draws": 5},
    "classify": {"test": 24},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A text encoder that knows a few words, so that no shipped one is needed."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = train_tokenizer(
        ["left right midline apex mid base peripheral transition zone PI-RADS lesion of 12 mm"] * 3, 200
    )
    torch.manual_seed(0)
    return str(save_text_encoder(T5EncoderModel(small_t5_config(len(tokenizer), 128, 1)), tokenizer, folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("runs") / "trial")


def start(run, encoder, parameters=SMALL, targets=None, **overrides):
    return execute_run(run, load_recipe("tiny", {"text.encoder": encoder} | overrides), targets, parameters, cores=2)


def errors(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [o["ename"] for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]


def made(run) -> dict:
    """When each file of the run was written, but for what the engine says and locks."""
    files = (
        p
        for p in run.folder.rglob("*")
        if p.is_file() and not {"logs", ".snakemake"} & set(p.relative_to(run.folder).parts)
    )
    return {p.relative_to(run.folder).as_posix(): p.stat().st_mtime_ns for p in files}


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_takes_the_parameters_that_its_stage_knows(stage):
    told = inspect_notebook(str(find_notebooks() / STAGES[stage].notebook))
    fields = STAGES[stage].parameters.model_fields
    assert set(told) == {*COMMON_PARAMETERS, *fields}
    assert {k: told[k]["default"].strip("\"'") for k in fields} == {k: str(f.default) for k, f in fields.items()}


def test_six_stages(run, encoder):
    began = time.perf_counter()
    assert set(STAGES) < set(start(run, encoder))
    print(f"six stages in {time.perf_counter() - began:.0f} s")
    found = json.loads((run.folder / "metrics.json").read_text())
    assert set(found) == set(STAGES) == set(run.results())
    assert not any(errors(run.executed(s)) for s in STAGES)
    synthetic = Cohort.read(run.synthetic)
    assert len(synthetic) == found["generate"]["exams"] == 36 and synthetic.check()["sequences"] == {
        "axt2": 36,
        "highb": 36,
        "adc": 36,
    }
    for s in ("axt2", "highb", "adc"):
        assert sorted(found["evaluate"]["fid"][s]) == [
            "floor",
            "other institution",
            "reconstruction",
            "synthetic",
            "untrained",
        ]
    assert found["evaluate"]["head"]["auc"]["n"] == 30 and found["classify"]["test_exams"] == {
        "institution 1": 24,
        "institution 2": 24,
    }
    page = run.page.read_text(encoding="utf-8")
    assert (
        "trained from random weights" in page and page.count("data:image/png;base64") == 4 and 'src="http' not in page
    )


def test_again_nothing_is_done(run, encoder):
    before = made(run)
    assert start(run, encoder) == []
    assert made(run) == before


def test_changed_parameters_touch_what_depends_on_them(run, encoder):
    before = made(run)
    assert set(start(run, encoder, SMALL | {"classify": {"test": 24, "seed": 1}})) - {"everything"} == {
        "classify",
        "page",
    }
    changed = {name for name, when in made(run).items() if before.get(name) != when}
    assert changed <= {
        "06_classify.ipynb",
        "metrics/classify.json",
        "metrics.json",
        "report.html",
        "study.json",
        "recipe.yaml",
    }


def test_one_sequence(tmp_path, encoder):
    """A recipe of one sequence walks the same road; the lesion detector, which needs three, is left out."""
    run = Run(tmp_path / "axt2")
    first = load_recipe("tiny").sequences[0].model_dump()
    assert set(STAGES) < set(start(run, encoder, sequences=[first]))
    found = json.loads((run.folder / "metrics.json").read_text())
    assert list(found["evaluate"]["fid"]) == ["axt2"] and found["evaluate"]["faithfulness"] is None
    synthetic = Cohort.read(run.synthetic)
    assert synthetic.check()["sequences"] == {"axt2": 36} and not list(run.synthetic.rglob("adc*"))


def test_a_run_of_another_recipe_is_refused(run):
    before = made(run)
    with pytest.raises(CcellaError, match="holds a run of recipe 'tiny', asked for 'phantom'"):
        execute_run(run, "phantom")
    assert made(run) == before


def test_a_failed_stage_keeps_its_notebook(tmp_path, encoder):
    run = Run(tmp_path / "broken")
    with pytest.raises(CcellaError, match=f"stage cohort failed: .*{tmp_path.name}.nowhere"):
        start(run, encoder, {"cohort": {"source": str(tmp_path / "nowhere")}})
    assert (
        errors(run.executed("cohort")) == ["CcellaError"]
        and not run.metrics("cohort").exists()
        and not run.cohort.exists()
    )


def test_killed_in_the_middle_of_training(run, encoder):
    """SIGKILL to the engine's caller; the same call then goes on from the last state and loses no step."""
    steps = 400
    call = f"""
from ccella.recipe import load_recipe
from ccella.studies.engine import execute_run

recipe = load_recipe("tiny", {{"text.encoder": {encoder!r}, "train.steps": {steps}}})
execute_run({str(run.folder)!r}, recipe, ["train"], cores=2)
"""
    log, former = run.model / "metrics.csv", (run.model / "of.json").read_text()
    process = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def rows():
        is_new_model = (run.model / "of.json").read_text() != former
        return log.read_text().splitlines()[1:] if log.is_file() and is_new_model else []

    while len(rows()) < 12:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # the notebook's own process sees that the engine is gone
    before = rows()
    assert 12 <= len(before) < steps and not run.metrics("train").is_file()
    time.sleep(2)
    assert rows() == before, "training went on unseen"
    assert start(run, encoder, {}, ["train"], **{"train.steps": steps}) == ["train"]
    after = rows()
    assert [int(r.split(",")[0]) for r in after] == list(range(1, steps + 1))
    kept = len(before) - 3  # the state is written every third step; the times of these steps are those of the first try
    assert after[:kept] == before[:kept]
    assert len(list((run.folder / "models").iterdir())) == 1, "the former model waits"
